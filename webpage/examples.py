"""What languages are called, and a sentence in each to begin with."""

LANGUAGES = {
    "ar": ("Arabic", "صباح الخير، كيف حالك اليوم؟"),
    "cmn": ("Mandarin", "你好，今天天气很好，我们去散步吧。"),
    "cs": ("Czech", "Dobrý den, dnes je krásné počasí a půjdeme na procházku."),
    "da": ("Danish", "Goddag, i dag er det smukt vejr, og vi går en tur."),
    "de": ("German", "Guten Tag! Heute ist das Wetter schön, und wir gehen am Fluss spazieren."),
    "el": ("Greek", "Καλημέρα, σήμερα ο καιρός είναι ωραίος και πάμε μια βόλτα."),
    "en": ("English", "Good morning! The birch canoe slid on the smooth planks, and the river was quiet."),
    "es": ("Spanish", "Buenos días, hoy hace buen tiempo y vamos a pasear junto al río."),
    "fi": ("Finnish", "Hyvää päivää, tänään on kaunis ilma ja lähdemme kävelylle."),
    "fr": ("French", "Bonjour, il fait beau aujourd'hui et nous allons nous promener au bord de la rivière."),
    "hi": ("Hindi", "नमस्ते, आज मौसम अच्छा है और हम टहलने जा रहे हैं।"),
    "it": ("Italian", "Buongiorno, oggi il tempo è bello e andiamo a passeggiare lungo il fiume."),
    "ja": ("Japanese", "こんにちは、今日は天気がいいので、散歩に行きましょう。"),
    "ko": ("Korean", "안녕하세요, 오늘은 날씨가 좋아서 산책을 갑니다."),
    "nl": ("Dutch", "Goedemorgen! Vandaag is het mooi weer, en we gaan wandelen langs de rivier."),
    "pl": ("Polish", "Dzień dobry, dzisiaj jest ładna pogoda i idziemy na spacer."),
    "pt": ("Portuguese", "Bom dia, hoje o tempo está bonito e vamos passear à beira do rio."),
    "ru": ("Russian", "Добрый день, сегодня хорошая погода, и мы идём гулять."),
    "sv": ("Swedish", "God dag, i dag är det vackert väder och vi går på promenad."),
    "tr": ("Turkish", "Günaydın, bugün hava güzel ve yürüyüşe çıkıyoruz."),
    "uk": ("Ukrainian", "Добрий день, сьогодні гарна погода, і ми йдемо гуляти."),
}
"""By espeak-ng's names; that of a variety, as en-gb, begins with its language's."""


def language_label(language: str) -> str:
    """Its English name, where it is known here, and espeak-ng's."""
    known = LANGUAGES.get(language.split("-")[0])
    return f"{known[0]} ({language})" if known else language


def example(language: str) -> str | None:
    """A sentence in the language; None where there is none here."""
    known = LANGUAGES.get(language.split("-")[0])
    return known[1] if known else None
