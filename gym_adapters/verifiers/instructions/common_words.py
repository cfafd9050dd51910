"""The commonest words of languages whose script does not tell them apart."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COMMON_WORDS"]

_LISTED: Mapping[str, str] = {
    "en": "the of and to in is that it was for on are as with his they be at this have from "
    "or had by not but what all were we when your can said there an each which she do "
    "how their if will up about out them then many some so would other into has more "
    "her two him my i you he me who been these than its our",
    "es": "de la que el en y los se del las por un para con no una su al lo como más pero sus "
    "le ya o este sí porque esta entre cuando muy sin sobre también me hasta hay donde "
    "quien desde todo nos durante es son está tiene fue ser",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas "
    "foi ao ele das tem à seu sua ou ser quando muito há nos já está eu também só pelo "
    "pela até isso ela entre era depois sem mesmo aos são você",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se "
    "ce il sont avec son cette mais comme ou si leur y dont aux nous vous ont être elle "
    "deux tout je même sa ses fait c'est d'un l'",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als "
    "auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie "
    "einem über einen so zum war haben nur oder aber vor zur bis mehr durch man sein "
    "wir ich",
    "it": "di e il la che in un a è per una sono con non del si da le dei nel al come i più "
    "lo ma ha gli della delle anche o se alla questo io mi ti suo sua loro quando dove "
    "molto tutti dal nella essere stato",
    "vi": "và của là có trong được cho không một các với người này đã những để khi đến về ra "
    "như từ tôi bạn nhiều cũng sẽ vào lại thì ở rất",
    "pl": "i w na z się nie do to że jest o jak po co tak za od ale przez ich dla czy już "
    "tylko jego jej był być są może oraz ten ta te tego też które który ma nas",
    "fi": "ja on ei se että oli hän olla mutta kun niin kuin myös tai joka ovat ole vain jos "
    "nyt sitä mitä voi hänen sen tämä siitä sekä kanssa minä sinä he ne",
    "sw": "ya na wa kwa ni katika za la kuwa cha hii yake kama ili hiyo vya watu au mtu sana "
    "pia lakini hivyo huo hizo mimi wewe yeye sisi kila bila baada",
    "ru": "и в не на что я с он как это по но они мы она к у из за от так же для вы все его "
    "ее только было быть или когда если",
    "uk": "і в не на що я з він як це по але вони ми вона до у із за від так для ви все його "
    "її тільки було бути або коли якщо та є ще",
    "bg": "и в не на че аз с той как това по но те ние тя към у от за така се да ще са съм си "
    "е беше или когато ако като има може",
    "ar": "في من على إلى أن هذا هذه التي الذي ما لا كان عن مع هو هي و أو ثم قد كل بعد قبل",
    "fa": "و در به از که این را با است برای آن یک خود تا بر هم نیز شد می ها های بود اما",
    "ur": "کے کی میں ہے اور سے کا کو اس نے یہ کہ پر ہیں ایک بھی تھا نہیں جو ہو گیا",
    "hi": "के है में की और से को का एक यह हैं पर ने कि इस भी था नहीं लिए हो कर ये वह तो थी",
    "mr": "आहे आणि या च्या ते हे एक मध्ये होते नाही असे त्या की व आहेत तो ती केले साठी हा ही",
    "ne": "छ र को मा लाई का पनि यो हो एक छन् गर्न भने तर थियो गरेको हुन्छ यस गर्ने भएको",
}
COMMON_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(listed.split()) for language, listed in _LISTED.items()
}
"""By language code (ISO 639-1), in lower case."""
