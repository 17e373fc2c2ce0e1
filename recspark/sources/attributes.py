"""Attributes of the synthetic items: what a catalogue would say about them.

item_id  category   brand     price  name
i00042   kettles    Arvo      18.9   Amber kettle
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.sources.counter_random import draw_bits, draw_uniforms
from recspark.sources.planted import PlantedWorld, item_id

ATTRIBUTES = ("item_id", "category", "brand", "price", "name")
BRANDS_PER_CATEGORY = 5

_NOUN_TEXT = """
kettle lamp chair mug clock rug vase basket candle blanket pillow mirror shelf stool table tray jug bowl plate spoon
knife pan pot jar bottle bag purse scarf glove hat belt ring frame poster puzzle kite ball drum flute bell
"""
_ADJECTIVE_TEXT = """
Amber Azure Brass Calm Coral Dusky Early Faded Golden Hazel Indigo Ivory Jolly Little Misty Noble Oaken Pale Quiet
Rustic Silver Tidy Velvet Woven
"""
_NOUNS, _ADJECTIVES = _NOUN_TEXT.split(), _ADJECTIVE_TEXT.split()
_SYLLABLES = ("ar", "vo", "len", "ti", "mo", "ka", "ru", "sel", "do", "ni", "ba", "pe")


def build_item_attributes(world: PlantedWorld) -> dict[str, NDArray[Any]]:
    """Arrays of all items, by item number: ``price`` float64, the others text; ``category`` is the planted cluster."""
    items = np.arange(world.config.num_items)
    cluster = world.cluster_of_item
    own_brand = (draw_bits(world.seed, "brand", items) % np.uint64(BRANDS_PER_CATEGORY)).astype(np.int64)
    adjective = (draw_bits(world.seed, "adjective", items) % np.uint64(len(_ADJECTIVES))).astype(np.int64)
    level = 5 + 95 * draw_uniforms(world.seed, "price_level", cluster)
    values: dict[str, list[Any]] = {
        "item_id": [item_id(int(n)) for n in items],
        "category": [_category(c) for c in cluster],
        "brand": [_brand(world.seed, b) for b in cluster * BRANDS_PER_CATEGORY + own_brand],
        "name": [f"{_ADJECTIVES[a]} {_noun(c)}" for a, c in zip(adjective, cluster, strict=True)],
    }
    price = np.round(level * np.exp(draw_uniforms(world.seed, "price", items) - 0.5), 2)
    return {name: np.array(values[name], dtype=object) if name in values else price for name in ATTRIBUTES}


def _noun(cluster: int) -> str:
    """A word of the cluster's own; numbered once the words are used up."""
    round_number, place = divmod(int(cluster), len(_NOUNS))
    return _NOUNS[place] if round_number == 0 else f"{_NOUNS[place]} {round_number + 1}"


def _category(cluster: int) -> str:
    word, _, number = _noun(cluster).partition(" ")
    return f"{word}s {number}".strip()


def _brand(seed: int, brand: int) -> str:
    bits = int(draw_bits(seed, "brand_name", brand)[0])
    syllables = [_SYLLABLES[(bits >> 8 * place) % len(_SYLLABLES)] for place in range(3)]
    return "".join(syllables).capitalize()
