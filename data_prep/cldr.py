"""Generates a demo corpus, without a download, from Unicode CLDR data.

A sentence has one to three facts, or lists of facts of one kind. ``babel``, which
contains CLDR, formats each fact in both languages, and ``num2words`` spells numbers.
The text of a seed depends on the versions of these two libraries.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Callable, Dict, Iterable, List, Mapping, Set, Tuple

from babel import Locale, dates
from babel.core import get_global
from babel.languages import get_official_languages
from babel.lists import format_list
from babel.numbers import format_currency, get_currency_precision
from babel.units import UnknownUnitError, format_unit
from num2words import CONVERTER_CLASSES, num2words

from . import LANGUAGES, DataError

SIZES = MappingProxyType({"train": 20000, "valid": 500, "test": 500})
CURRENCIES = """AED ARS AUD BGN BRL CAD CHF CLP CNY COP CZK DKK EGP EUR GBP HKD HUF IDR
ILS INR JPY KES KRW MAD MKD MXN MYR NGN NOK NZD PEN PHP PKR PLN RON RSD RUB SAR SEK SGD
THB TRY TWD UAH USD VND ZAR"""
UNITS = """angle-degree area-hectare area-square-foot area-square-kilometer
area-square-meter area-square-mile concentr-percent digital-gigabyte digital-kilobyte
digital-megabit digital-megabyte digital-terabyte duration-century duration-day
duration-decade duration-hour duration-minute duration-month duration-second
duration-week duration-year electric-ampere electric-ohm electric-volt energy-calorie
energy-joule energy-kilojoule energy-kilowatt-hour length-centimeter length-foot
length-kilometer length-light-year length-meter length-mile length-millimeter
length-nautical-mile length-yard mass-gram mass-kilogram mass-milligram mass-ounce
mass-pound mass-tonne power-horsepower power-kilowatt power-megawatt power-watt
speed-kilometer-per-hour speed-knot speed-meter-per-second speed-mile-per-hour
temperature-celsius temperature-fahrenheit temperature-kelvin volume-barrel
volume-cubic-meter volume-cup volume-gallon volume-liter volume-milliliter
volume-tablespoon volume-teaspoon"""
SHORTEST, LONGEST = 8, 28  # words of a sentence, on either side

Text = Tuple[str, str]  # in the source and in the target language
Locales = Tuple[Locale, Locale]
FactMaker = Callable[[Random, Locales], Text]


def write_corpus(
    src: str, tgt: str, out: Path, sizes: Mapping[str, int] = SIZES, seed: int = 1
) -> Mapping[str, int]:
    """Write ``out/SPLIT.SRC`` and ``out/SPLIT.TGT``, one sentence per line.

    No two splits share a sentence, on either side.

    Args:
        src, tgt: two of ``LANGUAGES``; also the endings of the files.
        out: an existing folder.
        sizes: split -> number of sentence pairs.
        seed: as in :func:`sentence_pairs`.

    Returns:
        The sizes.

    Raises:
        DataError: as :func:`sentence_pairs`.
    """
    pairs = iter(sentence_pairs(src, tgt, sum(sizes.values()), seed))
    for split, size in sizes.items():
        chosen = [next(pairs) for _ in range(size)]
        for side, language in enumerate((src, tgt)):
            text = "".join(f"{pair[side]}\n" for pair in chosen)
            (out / f"{split}.{language}").write_bytes(text.encode())
    return sizes


def sentence_pairs(src: str, tgt: str, count: int, seed: int) -> List[Tuple[str, str]]:
    """Generate sentence pairs. No sentence occurs twice, on either side.

    The text is in NFC, without line ends, tabs, double spaces and special spaces. It
    comes from the CLDR data of the installed ``babel``, and from ``num2words`` where it
    supports both languages.

    Args:
        src, tgt: two of ``LANGUAGES``.
        count: number of pairs.
        seed: of the random choices. With the same versions of the libraries, the
            same seed gives the same pairs.

    Raises:
        DataError: a language is not in ``LANGUAGES``.
    """
    for language in (src, tgt):
        if language not in LANGUAGES:
            supported = f"(supported: {', '.join(LANGUAGES)})"
            raise DataError(f"unknown language {language!r} {supported}")
    rng, locales = Random(seed), (Locale(src), Locale(tgt))
    makers = fact_makers(locales)
    seen: Set[Tuple[int, str]] = set()
    pairs: List[Tuple[str, str]] = []
    while len(pairs) < count:
        pair = _sentence(rng, locales, makers)
        fits = all(SHORTEST <= len(side.split()) <= LONGEST for side in pair)
        if fits and seen.isdisjoint(enumerate(pair)):
            seen.update(enumerate(pair))
            pairs.append(pair)
    return pairs


def fact_makers(locales: Locales) -> List[FactMaker]:
    """Functions that make a fact, one for each kind that both languages support."""
    makers = [_date, _moment, _time, _interval, _relative_time]
    makers += [_money, _count, _territory, _language, _city_time]
    if all(locale.language in CONVERTER_CLASSES for locale in locales):
        makers.append(_number)
    return makers


def _sentence(rng: Random, locales: Locales, makers: List[FactMaker]) -> Text:
    chosen = rng.sample(makers, rng.choice((1, 2, 2, 2, 3)))
    sides = list(zip(*(_phrase(rng, locales, maker) for maker in chosen)))
    # No dash: it looks like an interval. No full stop after that of "2024 г."
    stop = rng.choice("?" if any(side[-1].endswith(".") for side in sides) else ".?")
    marks = [rng.choice((": ", "; ")), "; "][: len(chosen) - 1] + [stop]
    source, target = (
        _plain("".join(fact + mark for fact, mark in zip(side, marks)))
        for side in sides
    )
    return source, target


def _phrase(rng: Random, locales: Locales, maker: FactMaker) -> Text:
    """One fact, or a list of facts of a kind that contains no commas."""
    if maker in (_date, _moment, _interval) or rng.random() < 0.3:
        return maker(rng, locales)
    facts = dict.fromkeys(maker(rng, locales) for _ in range(rng.choice((2, 2, 3))))
    style = rng.choice(("standard", "or"))
    source, target = (
        format_list(side, style, at) for side, at in zip(zip(*facts), locales)
    )
    return source, target


def _plain(text: str) -> str:
    """The text in NFC, with single spaces, without soft hyphens and direction marks."""
    kept = (char for char in text if unicodedata.category(char) != "Cf")
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


def _both(locales: Locales, render: Callable[[Locale], str]) -> Text:
    return render(locales[0]), render(locales[1])


def _date(rng: Random, locales: Locales) -> Text:
    day = _some_time(rng)
    # Not "medium" or numeric dates: in some languages two styles look the same.
    style = rng.choice(("full", "long", "yMMMEd", "yMMMM", "MMMMd", "yQQQQ"))
    if style in ("full", "long"):
        return _both(locales, lambda at: dates.format_date(day, style, at))
    return _both(locales, lambda at: dates.format_skeleton(style, day, locale=at))


def _moment(rng: Random, locales: Locales) -> Text:
    when = _some_time(rng)

    def render(at: Locale) -> str:
        day = dates.format_date(when, "full", at)
        hour = dates.format_skeleton(_hours(at), when, locale=at)
        return dates.get_datetime_format("full", at).replace("'", "").format(hour, day)

    return _both(locales, render)


def _time(rng: Random, locales: Locales) -> Text:
    when, day = _some_time(rng), rng.choice(("", "E"))
    return _both(
        locales, lambda at: dates.format_skeleton(day + _hours(at), when, locale=at)
    )


def _interval(rng: Random, locales: Locales) -> Text:
    start = _some_time(rng).replace(hour=rng.randrange(12))
    skeleton, least, most = rng.choice(
        (("yMMMd", 1, 90), ("yMMMM", 32, 400), ("", 1 / 24, 1 / 2))
    )
    end = start + timedelta(minutes=5) * rng.randint(int(288 * least), int(288 * most))
    return _both(
        locales,
        lambda at: dates.format_interval(start, end, skeleton or _hours(at), locale=at),
    )


def _relative_time(rng: Random, locales: Locales) -> Text:
    # The largest numbers that babel does not convert to the next larger unit.
    most = {"second": 59, "minute": 59, "hour": 23, "day": 6, "week": 4, "month": 11}
    unit, limit = rng.choice(list({**most, "year": 60}.items()))
    seconds = dict(dates.TIMEDELTA_UNITS)[unit] * rng.randint(1, limit)
    ago = timedelta(seconds=rng.choice((-1, 1)) * seconds)
    options = {"threshold": 1, "add_direction": True}
    return _both(locales, lambda at: dates.format_timedelta(ago, locale=at, **options))


def _some_time(rng: Random) -> datetime:
    day = datetime(rng.randint(1900, 2099), 1, 1) + timedelta(rng.randrange(365))
    return day.replace(hour=rng.randrange(24), minute=5 * rng.randrange(12))


def _hours(locale: Locale) -> str:
    """Skeleton of a time of day, with the 12 or 24 hours of the language."""
    return "hm" if "h" in locale.time_formats["short"].pattern else "Hm"


def _money(rng: Random, locales: Locales) -> Text:
    code = rng.choice(_named(CURRENCIES, _in_currency, locales))
    amount = _amount(rng, get_currency_precision(code))
    return _both(locales, lambda at: _in_currency(amount, code, locale=at))


def _count(rng: Random, locales: Locales) -> Text:
    unit, amount = rng.choice(_named(UNITS, format_unit, locales)), _amount(rng, 1)
    return _both(locales, lambda at: format_unit(amount, unit, locale=at))


def _number(rng: Random, locales: Locales) -> Text:
    number = rng.randrange(1000)
    return _both(locales, lambda at: num2words(number, lang=at.language))


def _amount(rng: Random, decimals: int) -> Decimal:
    whole = rng.randint(1, rng.choice((20, 100, 1000, 9999)))
    fraction = rng.randrange(10**decimals) if rng.random() < 1 / 3 else 0
    return whole + Decimal(fraction) / 10**decimals


_in_currency = partial(format_currency, format_type="name")


@cache
def _named(keys: str, render: Callable[..., str], locales: Locales) -> List[str]:
    """Currencies or units that have a name in both languages."""

    def name(key: str, at: Locale) -> str:
        try:
            forms = [render(Decimal(n) / 2, key, locale=at) for n in (10, 2, 3, 42)]
        except UnknownUnitError:
            return ""
        # babel prints the identifier if a name is missing.
        return "" if any(key in form for form in forms) else forms[0]

    return list(_names(keys.split(), name, locales))


def _territory(rng: Random, locales: Locales) -> Text:
    return rng.choice(_places(locales)[0])


def _language(rng: Random, locales: Locales) -> Text:
    return rng.choice(_places(locales)[1])


def _city_time(rng: Random, locales: Locales) -> Text:
    return rng.choice(_places(locales)[2])


@cache
def _places(locales: Locales) -> Tuple[List[Text], List[Text], List[Text]]:
    """Territories, their national languages, and the times of cities.

    Cities are those for which at least one of the languages has a name.
    """

    def time_of_city(zone: str, at: Locale) -> str:
        # CLDR omits a name that equals the last part of the identifier.
        last = zone.rsplit("/", 1)[-1].replace("_", " ")
        return at.zone_formats["region"] % at.time_zones.get(zone, {}).get("city", last)

    codes = get_global("territory_languages")
    spoken = {code for at in codes for code in get_official_languages(at)}
    zones = {*locales[0].time_zones, *locales[1].time_zones}
    zones = {zone for zone in zones if zone.startswith(("Africa/", "Asia/", "Europe/"))}
    names = _names(codes, lambda code, at: at.territories.get(code, ""), locales)
    territories = [row for row in names.values() if not set("&(,/") & set("".join(row))]
    taken = {side for row in territories for side in row}  # "Nauru" is also a language
    names = _names(spoken, lambda code, at: at.languages.get(code, ""), locales)
    languages = [row for row in names.values() if not taken & set(row)]
    return territories, languages, list(_names(zones, time_of_city, locales).values())


def _names(
    keys: Iterable[str], name: Callable[[str, Locale], str], locales: Locales
) -> Dict[str, Text]:
    """Key -> its names, for keys with a unique name in both languages."""
    rows = {key: (name(key, locales[0]), name(key, locales[1])) for key in sorted(keys)}
    uses = [Counter(side) for side in zip(*rows.values())]
    return {
        key: row
        for key, row in rows.items()
        if all(text and use[text] == 1 for text, use in zip(row, uses))
    }
