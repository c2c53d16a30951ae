"""Answers of Overpass ({"elements": [...]}) as the text of an .osm file, which GDAL knows how to make shapes of."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from tools.base.errors import UserError

_MISSING = "has no coordinates: ask Overpass for them, with `out geom;` or `(._;>;); out body;`"


def text_of(path: Path) -> bytes | None:
    """The .osm text of a file if it is an answer of Overpass; None if it is another kind of file.

    Raises UserError where the answer is damaged or lacks coordinates.
    """
    if path.suffix.lower() != ".json" or not path.is_file():
        return None
    try:
        answer = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} breaks off or is no JSON ({error}): fetch it again.") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("elements"), list):
        return None
    if "error" in str(answer.get("remark", "")):
        raise UserError(f"{path} is not whole, the server said: {answer['remark']}. Ask for a smaller area, or more time.")
    try:
        return _Document(answer["elements"]).text
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no answer of Overpass as we know it ({error!r}): ask for [out:json].") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _Document:
    """Nodes, ways and relations that refer to each other by number, however the answer had their coordinates."""

    def __init__(self, elements: list[dict[str, Any]]):
        self.places = {e["id"]: (e["lat"], e["lon"]) for e in elements if e["type"] == "node"}
        self.numbers = {place: number for number, place in self.places.items()}
        self.last = max(self.places, default=0)
        self.tags = {e["id"]: e.get("tags", {}) for e in elements if e["type"] == "node"}
        self.ways: dict[int, tuple[list[int], dict[str, str]]] = {}
        self.relations = [e for e in elements if e["type"] == "relation"]
        ways = [e for e in elements if e["type"] == "way"]
        members = [m for r in self.relations for m in r.get("members", []) if m["type"] == "way"]
        numbers = [*(way["id"] for way in ways), *(member["ref"] for member in members)]
        self.more = itertools.count(max(numbers, default=0) + 1)
        for way in ways:
            self._add(way["id"], way)
        for member in members:
            if member["ref"] not in self.ways and member.get("geometry"):
                self._add(member["ref"], member)

    def _add(self, number: int, way: dict[str, Any]) -> None:
        """A way by its nodes. Where it leaves an area that was asked for and comes back, each part is a way of its own."""
        for i, nodes in enumerate(self._parts(way)):
            self.ways[next(self.more) if i else number] = nodes, way.get("tags", {})

    def _parts(self, way: dict[str, Any]) -> list[list[int]]:
        """The numbers of a way's nodes, in parts between those beyond the area, which have no place."""
        if "geometry" in way:
            nodes = [self._number((p["lat"], p["lon"])) if p else None for p in way["geometry"]]
        else:
            nodes = [n if n in self.places else None for n in way.get("nodes", [])]
            if not any(n is not None for n in nodes):
                raise UserError(f"way {way.get('id', way.get('ref'))} {_MISSING}.")
        return [list(part) for is_there, part in itertools.groupby(nodes, lambda n: n is not None) if is_there]

    def _number(self, place: tuple[float, float]) -> int:
        if place not in self.numbers:
            self.last += 1
            self.numbers[place], self.places[self.last] = self.last, place
        return self.numbers[place]

    @property
    def text(self) -> bytes:
        root = Xml.Element("osm", version="0.6")
        for parts in (self._node_tags(), self._way_tags(), self._relation_tags()):  # in the order that GDAL wants, by number
            root.extend(parts)
        return Xml.tostring(root, encoding="utf-8", xml_declaration=True)

    def _node_tags(self) -> Iterator[Xml.Element]:
        for number, (lat, lon) in sorted(self.places.items()):
            yield _tagged(Xml.Element("node", id=str(number), lat=repr(lat), lon=repr(lon)), self.tags.get(number, {}))

    def _way_tags(self) -> Iterator[Xml.Element]:
        for number, (nodes, tags) in sorted(self.ways.items()):
            way = Xml.Element("way", id=str(number))
            way.extend(Xml.Element("nd", ref=str(node)) for node in nodes)
            yield _tagged(way, tags)

    def _relation_tags(self) -> Iterator[Xml.Element]:
        for relation in sorted(self.relations, key=lambda r: r["id"]):
            found = Xml.Element("relation", id=str(relation["id"]))
            for m in relation.get("members", []):
                Xml.SubElement(found, "member", type=m["type"], ref=str(m["ref"]), role=m.get("role", ""))
            yield _tagged(found, relation.get("tags", {}))


def _tagged(element: Xml.Element, tags: dict[str, str]) -> Xml.Element:
    element.extend(Xml.Element("tag", k=key, v=str(value)) for key, value in tags.items())
    return element
