"""Answers of Overpass ({"elements": [...]}) as the text of an .osm file, which GDAL knows how to make shapes of."""

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
        self.ways = {e["id"]: (self._nodes(e), e.get("tags", {})) for e in elements if e["type"] == "way"}
        self.relations = [e for e in elements if e["type"] == "relation"]
        for member in (m for relation in self.relations for m in relation.get("members", [])):
            if member["type"] == "way" and member["ref"] not in self.ways and member.get("geometry"):
                self.ways[member["ref"]] = (self._nodes(member), {})

    def _nodes(self, way: dict[str, Any]) -> list[int]:
        """The numbers of a way's nodes; those beyond an area that was asked for have no place and are left out."""
        if "geometry" in way:
            return [self._number((p["lat"], p["lon"])) for p in way["geometry"] if p]
        if not (nodes := [n for n in way.get("nodes", []) if n in self.places]):
            raise UserError(f"way {way.get('id', way.get('ref'))} {_MISSING}.")
        return nodes

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
