"""Requests as people write them, with which the reading of texts was chosen.

They are none of Stage II's wordings, and none of those that the validation queries have.
``{new}`` is another colour, ``{old}`` the photo's own.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COLOURS", "FOREIGN", "MESSAGES"]

MESSAGES = (
    (
        "Hello! I came across this one yesterday while browsing and I really love how it "
        "looks, but I would need it in {new}. Do you have that?"
    ),
    (
        "so my sister has this exact one and i am so jealous, but i look terrible in {old} so"
        " could you find me one in {new} thanks a lot"
    ),
    (
        "Hi there, hope you're doing well. I'm searching for something for a wedding next "
        "month, this is perfect except that the colour should be {new}."
    ),
    (
        "ok so i bought this last year and loved it, wore it out completely, now i want the "
        "same again but in {new} this time"
    ),
    (
        "Dear team, regarding the item in the picture: my order number is 4482. Could I "
        "exchange it for the {new} one? Kind regards, Anna"
    ),
    (
        "I know it's a long shot, but is there any way to get this exact thing in {new}? I've"
        " looked everywhere on the internet and found nothing."
    ),
    (
        "{new}. that's all i ask. everything else about this is perfect and i wouldn't change"
        " a thing, honestly"
    ),
    (
        "my boyfriend says this suits me but i think {new} would go better with the rest of "
        "my wardrobe, what have you got?"
    ),
    (
        "Saw this on the bus this morning, been thinking about it since. If it exists in "
        "{new} I'd buy it straight away!"
    ),
    (
        "before i decide, please show me how it looks in {new}, because my room mate already "
        "has the {old} one and we can't both wear it"
    ),
    (
        "My birthday is coming up and my friends asked what i want, i sent them this picture "
        "but {new} is what i would really like"
    ),
    (
        "we're a small band and need matching outfits, this shape is ideal, though the "
        "drummer insists on {new}"
    ),
    (
        "I've been going back and forth about this for weeks now. The fit is great, the price"
        " is fine. It's just that I want it in {new}."
    ),
    (
        "Not sure whether you can help but I am trying to find the {new} version of this for "
        "work, as our dress code is strict"
    ),
    (
        "could you be so kind and look whether the shop in town still has something like this"
        " in {new}, i can pick it up on friday"
    ),
    (
        "first of all great site! second, is it possible to order this in {new}? third, how "
        "long does delivery take?"
    ),
    "i like the cut but would want it in {new}",
    "my mother says i should take it in {new}",
    "could you show me the very same thing in {new}",
    "i already have enough {old}, so {new} this time please",
    "would be perfect if it came in {new} i think",
    "this is what i want except it must be {new}",
    "looking for exactly this but it has to be {new} please",
    "do they make one of these in {new} as well",
    "i'd buy it right away if you had it in {new}",
    "the photo shows {old} but i would like to have {new}",
    "it's a lovely piece, only i look better in {new}",
    "great shape, now give me the same in {new} thanks",
    "just got paid, treat me to the {new} one of these",
)
"""Long messages about a colour."""

FOREIGN: Mapping[str, tuple[str, ...]] = {
    "de": (
        "in {new}",
        "das gleiche in {new}",
        "dasselbe, nur in {new}",
        "bitte in {new}",
        "mach es {new}",
        "mach das {new}",
        "ich hätte es gern in {new}",
        "gibt es das auch in {new}",
        "habt ihr das in {new}?",
        "die gleiche sache in {new}",
        "lieber in {new}",
        "{new} statt {old}",
        "{new} anstatt {old}",
        "nicht {old}, sondern {new}",
        "statt {old} lieber {new}",
        "kann ich das in {new} haben",
        "das ganze in {new}",
        "aber in {new}",
        "so etwas in {new}",
        "ein {new}es modell",
        "ich suche so eins in {new}",
        "ich will es {new}",
        "zeig mir das in {new}",
        "am liebsten {new}",
        "farbe: {new}",
        "die farbe soll {new} sein",
        "ich mag kein {old}, gibt es {new}?",
        "hätten sie das vielleicht auch in {new}",
        "genau so, aber {new}",
        "in {new} bitte, nicht in {old}",
    ),
    "es": (
        "en {new}",
        "lo mismo en {new}",
        "el mismo en {new}",
        "igual pero en {new}",
        "quiero esto en {new}",
        "lo quiero en {new}",
        "¿lo tienen en {new}?",
        "lo tienes en {new}",
        "hazlo {new}",
        "que sea {new}",
        "ponlo en {new}",
        "de color {new}",
        "en color {new}",
        "prefiero {new}",
        "mejor en {new}",
        "{new} en vez de {old}",
        "{new} en lugar de {old}",
        "cambia el {old} por {new}",
        "cambia el color a {new}",
        "no {old}, sino {new}",
        "una versión en {new}",
        "muéstrame este en {new}",
        "hay alguno en {new}",
        "la misma cosa pero {new}",
        "me gustaría en {new}",
        "busco algo así en {new}",
        "existe en {new}",
        "color {new} por favor",
        "píntalo de {new}",
    ),
    "fr": (
        "en {new}",
        "la même chose en {new}",
        "le même en {new}",
        "pareil mais en {new}",
        "je le veux en {new}",
        "je voudrais ça en {new}",
        "vous l'avez en {new} ?",
        "avez-vous ceci en {new}",
        "est-ce que ça existe en {new}",
        "de couleur {new}",
        "en couleur {new}",
        "plutôt en {new}",
        "je préfère en {new}",
        "{new} au lieu de {old}",
        "{new} à la place de {old}",
        "remplace le {old} par du {new}",
        "change la couleur en {new}",
        "pas {old} mais {new}",
        "mets-le en {new}",
        "rends-le {new}",
        "montre-moi ça en {new}",
        "une version {new}",
        "il y en a en {new} ?",
        "dans un ton {new}",
        "la couleur doit être {new}",
        "le modèle {new}",
        "la version en {new} s'il vous plaît",
        "je cherche ce modèle en {new}",
        "la même mais {new}",
    ),
}

COLOURS: Mapping[str, Mapping[str, str]] = {
    "de": {
        "red": "rot",
        "blue": "blau",
        "black": "schwarz",
        "white": "weiß",
        "green": "grün",
        "yellow": "gelb",
        "grey": "grau",
        "brown": "braun",
        "pink": "rosa",
        "purple": "lila",
    },
    "es": {
        "red": "rojo",
        "blue": "azul",
        "black": "negro",
        "white": "blanco",
        "green": "verde",
        "yellow": "amarillo",
        "grey": "gris",
        "brown": "marrón",
        "pink": "rosa",
        "purple": "morado",
    },
    "fr": {
        "red": "rouge",
        "blue": "bleu",
        "black": "noir",
        "white": "blanc",
        "green": "vert",
        "yellow": "jaune",
        "grey": "gris",
        "brown": "marron",
        "pink": "rose",
        "purple": "violet",
    },
}
