"""Modification texts that swap, add or remove a phrase, for triplets mined from captions.

The change is not an attribute but a phrase: "a red car" for "a blue bus", "in the snow" for "at
the beach". Context, typing noise and held-out families are as in `attribute_wordings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from train.wordings.attribute_wordings import Wording, add_context, draw_reading
from train.wordings.family import Family
from train.wordings.noise import add_typing_noise, pick, vary_spelling

CHANGES: tuple[str, ...] = ("swap", "add", "remove")
SHAPES: tuple[str, ...] = ("thing", "place", "quality")
"""Grammatical role of a phrase: "a red car", "in the snow", "wooden"."""

HELD_OUT_PHRASE_FAMILIES: frozenset[str] = frozenset({"regret", "imagine", "ditch"})

# fmt: off
_SWAP: Mapping[str, tuple[Family, ...]] = {
    "thing": (
        Family("contrast", "phrase", (
            "{new} instead of {old}", "{new} rather than {old}", "{new}, not {old}",
            "not {old} but {new}", "with {new} instead of {old}", "with {new} in place of {old}",
            "instead of {old}, {new}", "no {old} but {new}", "with {new}, not {old}",
            "{new} where {old} is now", "{new} as opposed to {old}",
        )),
        Family("swap", "imperative", (
            "replace {old} with {new}", "swap {old} for {new}", "change {old} to {new}",
            "turn {old} into {new}", "exchange {old} for {new}", "use {new} instead of {old}",
            "put {new} where {old} is", "substitute {new} for {old}", "take away {old}, add {new}",
            "(convert|transform) {old} into {new}", "remove {old} and show {new}",
        )),
        Family("with", "phrase", (
            "with {new}", "but with {new}", "with {new} instead", "the same with {new}",
            "with {new} this time", "the same but with {new}", "like this but with {new}",
            "similar, with {new}", "one with {new}", "{new}", "{new} instead",
        )),
        Family("wish", "wish", (
            "i want {new}, not {old}", "i want one with {new}", "i need {new} instead of {old}",
            "i'd like to see {new}", "i would rather have {new} than {old}", "i prefer {new}",
            "looking for one with {new}", "there should be {new} instead of {old}",
            "it should show {new}", "i am after {new}", "i'm looking for {new}, not {old}",
        )),
        Family("ask", "question", (
            "is there one with {new}?", "do you have it with {new}?", "how about {new}?",
            "what about {new} instead of {old}?", "can i see one with {new}?",
            "could it be {new} instead?", "any with {new}?", "is there a similar one with {new}?",
        )),
        Family("says", "caption", (
            "has {new} instead of {old}", "shows {new} rather than {old}", "shows {new}",
            "has {new}", "features {new} in place of {old}", "contains {new}, not {old}",
            "depicts {new} instead", "is the same but with {new}", "has {new} where this has {old}",
        )),
        Family("show", "imperative", (
            "show {new}", "show me one with {new}", "find the same with {new}", "find {new}",
            "search for {new} instead", "give me one with {new}", "make it {new}",
            "let it be {new}", "change the picture to show {new}",
        )),
        Family("label", "terse", (
            "{old} -> {new}", "{new}", "query: {new}", "{old} to {new}", "now: {new}",
        )),
        Family("regret", "wish", (
            "nice, shame it isn't {new}", "i wish it were {new}", "if only it had {new}",
            "pity about {old}, i'd love {new}",
        )),
        Family("imagine", "wish", (
            "imagine {new} there", "picture it with {new}", "what if it was {new}?",
            "suppose {old} had been {new}",
        )),
        Family("ditch", "wish", (
            "ditch {old}, bring on {new}", "out with {old}, in with {new}",
            "goodbye {old}, hello {new}", "trade {old} for {new}",
        )),
    ),
    "place": (
        Family("contrast", "phrase", (
            "{new} instead of {old}", "{new} rather than {old}", "{new}, not {old}",
            "not {old} but {new}", "instead of {old}, {new}", "{new} instead", "{new} this time",
        )),
        Family("swap", "imperative", (
            "make it {new} instead of {old}", "change it from {old} to {new}",
            "change {old} to {new}", "make it {new}", "put it {new}", "have it {new}, not {old}",
            "replace {old} by {new}",
        )),
        Family("with", "phrase", (
            "{new}", "but {new}", "the same {new}", "the same but {new}", "like this but {new}",
            "this, {new}", "one {new}", "similar but {new}", "only {new}",
        )),
        Family("wish", "wish", (
            "i want it {new}", "i want one {new}, not {old}", "i need it {new}",
            "i'd like to see it {new}", "it should be {new}", "i would rather have it {new}",
            "looking for the same {new}", "i'm looking for one {new}",
        )),
        Family("ask", "question", (
            "is there one {new}?", "do you have it {new}?", "how about {new}?",
            "could it be {new}?", "what about one {new} instead of {old}?", "any {new}?",
        )),
        Family("says", "caption", (
            "is {new}", "is {new} instead of {old}", "is {new} rather than {old}",
            "is no longer {old} but {new}", "was taken {new}", "is the same but {new}",
        )),
        Family("show", "imperative", (
            "show it {new}", "show me one {new}", "find the same {new}", "find one {new}",
            "search for it {new}", "give me one {new}",
        )),
        Family("label", "terse", ("{old} -> {new}", "{new}", "{old} to {new}", "now {new}")),
        Family("regret", "wish", (
            "nice, shame it is not {new}", "i wish it were {new}", "pity it is {old}, not {new}",
        )),
        Family("imagine", "wish", (
            "imagine it {new}", "picture this {new}", "what if it was {new}?",
        )),
        Family("ditch", "wish", ("out with {old}, in with {new}", "goodbye {old}, hello {new}")),
    ),
    "quality": (
        Family("contrast", "phrase", (
            "{new} instead of {old}", "{new} rather than {old}", "{new}, not {old}",
            "not {old} but {new}", "{new} and not {old}", "{new} instead", "no longer {old}: {new}",
        )),
        Family("swap", "imperative", (
            "make it {new} instead of {old}", "make it {new}", "change {old} to {new}",
            "turn {old} into {new}", "turn it {new}", "change it from {old} to {new}",
            "switch from {old} to {new}", "replace {old} by {new}",
        )),
        Family("with", "phrase", (
            "{new}", "but {new}", "the same but {new}", "like this but {new}", "{new} this time",
            "similar but {new}", "the {new} one", "{new} version", "the {new} version of this",
        )),
        Family("wish", "wish", (
            "i want it {new}", "i want {new}, not {old}", "i need the {new} one",
            "i'd like it {new}", "i would prefer {new}", "it should be {new}",
            "it must be {new}, not {old}", "looking for the {new} one", "i prefer {new} to {old}",
        )),
        Family("ask", "question", (
            "is there one that is {new}?", "do you have it {new}?", "how about {new}?",
            "could it be {new} rather than {old}?", "is it available {new}?", "any {new} ones?",
        )),
        Family("says", "caption", (
            "is {new}", "is {new} instead of {old}", "is {new} rather than {old}",
            "is not {old} but {new}", "looks {new}", "is the same but {new}", "has become {new}",
        )),
        Family("show", "imperative", (
            "show me the {new} one", "show {new} ones", "find one that is {new}",
            "find the {new} version", "give me {new}", "go for {new}",
        )),
        Family("label", "terse", ("{old} -> {new}", "{new}", "{old} to {new}", "option: {new}")),
        Family("regret", "wish", (
            "nice, shame it isn't {new}", "i wish it were {new}", "pity that it's {old}, not {new}",
        )),
        Family("imagine", "wish", (
            "imagine it {new}", "picture it {new}", "what if it was {new}?", "suppose it was {new}",
        )),
        Family("ditch", "wish", (
            "out with {old}, in with {new}", "goodbye {old}, hello {new}",
            "ditch {old}, bring on {new}",
        )),
    ),
}

_ADD: Mapping[str, tuple[Family, ...]] = {
    "thing": (
        Family("add", "imperative", (
            "add {new}", "add {new} to it", "include {new}", "put {new} in", "put in {new} as well",
            "throw in {new}", "make it have {new}", "complete it by {new}", "bring in {new}",
        )),
        Family("with", "phrase", (
            "with {new}", "but with {new}", "the same with {new}", "also with {new}",
            "and {new}", "plus {new}", "like this, with {new}", "this together with {new}",
            "with {new} added", "with {new} too",
        )),
        Family("wish", "wish", (
            "i want {new} in it", "i want it with {new}", "i'd like {new} there as well",
            "there should be {new} too", "i need one that also has {new}", "it needs {new}",
            "it should have {new}", "looking for the same with {new}",
        )),
        Family("ask", "question", (
            "is there one with {new}?", "do you have it with {new}?", "can you add {new}?",
            "any that also have {new}?", "could it have {new} too?",
        )),
        Family("says", "caption", (
            "also has {new}", "has {new} too", "shows {new} as well", "includes {new}",
            "comes with {new}", "has {new} in addition",
        )),
        Family("label", "terse", ("+ {new}", "with {new}", "plus {new}", "extra: {new}")),
        Family("regret", "wish", ("nice, shame there isn't {new}", "if only it had {new}")),
        Family("imagine", "wish", ("imagine {new} with it", "picture it with {new}")),
    ),
    "place": (
        Family("add", "imperative", ("make it {new}", "put it {new}", "move it {new}")),
        Family("with", "phrase", (
            "{new}", "but {new}", "the same {new}", "this {new}", "the same but {new}",
            "one {new}", "only {new}", "like this, but {new}",
        )),
        Family("wish", "wish", (
            "i want it {new}", "i'd like to see it {new}", "it should be {new}",
            "i need one {new}", "looking for the same {new}",
        )),
        Family("ask", "question", ("is there one {new}?", "do you have it {new}?", "any {new}?")),
        Family("says", "caption", ("is {new}", "was taken {new}", "is the same {new}")),
        Family("label", "terse", ("{new}", "+ {new}")),
        Family("regret", "wish", ("nice, shame it isn't {new}", "i wish it were {new}")),
        Family("imagine", "wish", ("imagine it {new}", "picture it {new}")),
    ),
    "quality": (
        Family("add", "imperative", ("make it {new}", "turn it {new}", "make it look {new}")),
        Family("with", "phrase", (
            "{new}", "but {new}", "the same but {new}", "{new} version", "the {new} one",
            "like this but {new}", "a {new} one", "similar but {new}",
        )),
        Family("wish", "wish", (
            "i want it {new}", "i want the {new} one", "it should be {new}", "i'd like it {new}",
            "it must be {new}", "looking for the {new} one",
        )),
        Family("ask", "question", (
            "is there one that is {new}?", "do you have it {new}?", "could it be {new}?",
        )),
        Family("says", "caption", ("is {new}", "looks {new}", "is the same but {new}")),
        Family("label", "terse", ("{new}", "+ {new}", "option: {new}")),
        Family("regret", "wish", ("nice, shame it isn't {new}", "i wish it were {new}")),
        Family("imagine", "wish", ("imagine it {new}", "picture it {new}")),
    ),
}

_REMOVE: Mapping[str, tuple[Family, ...]] = {
    "thing": (
        Family("remove", "imperative", (
            "remove {old}", "take {old} away", "take out {old}", "get rid of {old}", "drop {old}",
            "leave {old} out", "delete {old}", "do away with {old}", "make {old} disappear",
        )),
        Family("without", "phrase", (
            "without {old}", "but without {old}", "the same without {old}", "no {bare}",
            "this minus {old}", "like this without {old}", "not with {old}", "no more {bare}",
        )),
        Family("wish", "wish", (
            "i don't want {old}", "i want it without {old}", "there should be no {bare}",
            "i'd like it without {old}", "i need one without {old}", "it should not have {old}",
            "looking for the same without {old}",
        )),
        Family("ask", "question", (
            "is there one without {old}?", "do you have it without {old}?",
            "can you take {old} out?", "any without {old}?",
        )),
        Family("says", "caption", (
            "has no {bare}", "is without {old}", "does not have {old}", "no longer has {old}",
            "lacks {old}", "is the same without {old}",
        )),
        Family("label", "terse", ("- {old}", "without {old}", "no {bare}")),
        Family("regret", "wish", ("nice, shame about {old}", "if only it didn't have {old}")),
        Family("imagine", "wish", ("imagine it without {old}", "picture it without {old}")),
    ),
    "place": (
        Family("remove", "imperative", ("don't show it {old}", "move it away, not {old}")),
        Family("without", "phrase", (
            "not {old}", "but not {old}", "the same, not {old}", "anything but {old}",
            "just not {old}", "not {old} this time",
        )),
        Family("wish", "wish", (
            "i don't want it {old}", "it should not be {old}", "i want one that is not {old}",
        )),
        Family("ask", "question", ("is there one that is not {old}?", "any not {old}?")),
        Family("says", "caption", ("is not {old}", "is no longer {old}")),
        Family("label", "terse", ("not {old}", "- {old}")),
        Family("regret", "wish", ("nice, shame it is {old}", "i wish it weren't {old}")),
        Family("imagine", "wish", ("imagine it, but not {old}",)),
    ),
    "quality": (
        Family("remove", "imperative", ("don't make it {old}", "make it not {old}")),
        Family("without", "phrase", (
            "not {old}", "but not {old}", "the same, not {old}", "just not {old}",
            "anything but {old}", "no longer {old}",
        )),
        Family("wish", "wish", (
            "i don't want it {old}", "it should not be {old}", "i'd like one that is not {old}",
        )),
        Family("ask", "question", ("is there one that is not {old}?", "any that are not {old}?")),
        Family("says", "caption", ("is not {old}", "is no longer {old}")),
        Family("label", "terse", ("not {old}", "- {old}")),
        Family("regret", "wish", ("nice, shame it is {old}", "i wish it weren't {old}")),
        Family("imagine", "wish", ("imagine it, but not {old}",)),
    ),
}
# fmt: on

_WRITTEN: Mapping[str, Mapping[str, tuple[Family, ...]]] = MappingProxyType(
    {"swap": _SWAP, "add": _ADD, "remove": _REMOVE}
)


@cache
def phrase_families(change: str, shape: str, *, held_out: bool) -> tuple[Family, ...]:
    """Return the families of a change and a shape: those held out, or those trained on."""
    return tuple(
        family
        for family in _WRITTEN[change][shape]
        if (family.name in HELD_OUT_PHRASE_FAMILIES) == held_out
    )


def phrase_wording(
    change: str,
    shape: str,
    old: str,
    new: str,
    rng: np.random.Generator,
    *,
    held_out: bool = False,
) -> Wording:
    """Return a modification text that changes the phrase ``old`` to ``new``.

    Args:
        change: one of `CHANGES`.
        shape: one of `SHAPES`, for both phrases.
        old: phrase of the reference's caption; empty if ``change`` is "add".
        new: phrase of the target's caption; empty if ``change`` is "remove".
        rng: source of all random draws.
        held_out: draw from the held-out families instead of the training families.
    """
    choices = phrase_families(change, shape, held_out=held_out)
    family = choices[int(rng.integers(len(choices)))]
    sentence = draw_reading(pick(family.templates, rng), rng)
    sentence = add_context(sentence, family, change, rng)
    sentence = add_typing_noise(vary_spelling(sentence, rng), rng)
    bare = old.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    for slot, phrase in (("{new}", new), ("{old}", old), ("{bare}", bare)):
        sentence = sentence.replace(slot, phrase)
    return Wording(sentence, family.name)
