"""Sixty schemas of kinds that people send: nested, recursive, patterns, formats, bounds, tuples, unicode."""

from typing import Any

Schema = dict[str, Any]
TEXT, WHOLE, NUMBER, FLAG = ({"type": name} for name in ("string", "integer", "number", "boolean"))


def record(required: list[str] | None = None, **properties: object) -> Schema:
    """Return an object of these properties alone, all required unless some are named."""
    needed = [*properties] if required is None else required
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def array(items: Schema, **bounds: int) -> Schema:
    """Return an array."""
    return {"type": "array", "items": items, **bounds}


def one_of(*values: object) -> Schema:
    """Return one of some values."""
    return {"enum": list(values)}


def entries(*items: Schema) -> Schema:
    """Return a tuple."""
    return {"type": "array", "prefixItems": list(items), "items": False, "minItems": len(items)}


SCHEMAS: list[Schema] = [
    record(
        name=TEXT,
        age={"type": "integer", "minimum": 0, "maximum": 130},
        email={"type": "string", "format": "email"},
    ),
    record(
        date={"type": "string", "format": "date"},
        time={"type": "string", "format": "time"},
        zone=one_of("UTC", "Europe/Berlin", "Asia/Tokyo"),
    ),
    record(id={"type": "string", "format": "uuid"}, created={"type": "string", "format": "date-time"}),
    record(ip={"type": "string", "format": "ipv4"}, port={"type": "integer", "minimum": 1, "maximum": 65535}),
    record(
        sku={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
        qty={"type": "integer", "exclusiveMinimum": 0, "maximum": 999},
    ),
    record(currency=one_of("€", "£", "¥", "₹", "$"), amount={"type": "number", "minimum": 0, "maximum": 1000000}),
    record(mood=one_of("😀 froh", "😢 traurig", "😡 wütend", "neutral")),
    record(language=one_of("Deutsch", "Français", "Español", "日本語", "Русский", "العربية", "हिन्दी", "中文")),
    record(tags=array(TEXT, minItems=1, maxItems=5)),
    record(matrix=array(array(NUMBER, minItems=2, maxItems=2), minItems=2, maxItems=2)),
    record(point=entries(NUMBER, NUMBER)),
    record(rgb=entries(*[{"type": "integer", "minimum": 0, "maximum": 255}] * 3)),
    record(version={"type": "array", "prefixItems": [WHOLE, WHOLE, WHOLE, TEXT], "items": False, "minItems": 3}),
    {"$defs": {"node": record(["value"], value=WHOLE, next={"$ref": "#/$defs/node"})}, "$ref": "#/$defs/node"},
    {
        "$defs": {"tree": record(["label"], label=TEXT, children=array({"$ref": "#/$defs/tree"}))},
        "$ref": "#/$defs/tree",
    },
    {
        "$defs": {
            "expr": {
                "anyOf": [
                    NUMBER,
                    record(
                        op=one_of("+", "-", "*", "/"),
                        left={"$ref": "#/$defs/expr"},
                        right={"$ref": "#/$defs/expr"},
                    ),
                ]
            }
        },
        "$ref": "#/$defs/expr",
    },
    {
        "$defs": {
            "person": record(["name"], name=TEXT, spouse={"anyOf": [{"$ref": "#/$defs/person"}, {"type": "null"}]})
        },
        **record(people=array({"$ref": "#/$defs/person"}, minItems=1)),
    },
    {
        "definitions": {
            "addr": record(
                street=TEXT, zip={"type": "string", "pattern": "^[0-9]{5}$"}, country=one_of("DE", "FR", "US")
            )
        },
        **record(billing={"$ref": "#/definitions/addr"}, shipping={"$ref": "#/definitions/addr"}),
    },
    {
        "anyOf": [
            record(kind={"const": "circle"}, r=NUMBER),
            record(kind={"const": "square"}, side=NUMBER),
            record(kind={"const": "poly"}, points=array(entries(NUMBER, NUMBER), minItems=3)),
        ]
    },
    record(answer={"anyOf": [TEXT, {"type": "null"}]}, confidence={"type": "number", "minimum": 0, "maximum": 1}),
    record(value={"type": ["string", "integer", "null"]}),
    record(
        code={"enum": [200, 201, 204, 301, 302, 400, 401, 403, 404, 409, 418, 429, 500, 502, 503]}, message=TEXT
    ),
    record(
        country={
            "enum": [
                "AD",
                "AE",
                "AF",
                "AG",
                "AI",
                "AL",
                "AM",
                "AO",
                "AQ",
                "AR",
                "AS",
                "AT",
                "AU",
                "AW",
                "AX",
                "AZ",
                "BA",
                "BB",
                "BD",
                "BE",
                "BF",
                "BG",
                "BH",
                "BI",
                "BJ",
                "BL",
                "BM",
                "BN",
                "BO",
                "BQ",
                "BR",
                "BS",
                "BT",
                "BV",
                "BW",
                "BY",
                "BZ",
                "CA",
                "CC",
                "CD",
            ]
        }
    ),
    record(city={"enum": [f"Stadt {i:04d} Ümläut" for i in range(400)]}),
    record(phone={"type": "string", "pattern": "^\\+[1-9][0-9]{6,14}$"}),
    record(plate={"type": "string", "pattern": "^[A-ZÄÖÜ]{1,3}-[A-Z]{1,2} [1-9][0-9]{0,3}$"}),
    record(hex={"type": "string", "pattern": "^#([0-9a-f]{6}|[0-9a-f]{3})$"}),
    record(iban={"type": "string", "pattern": "^DE[0-9]{20}$"}),
    record(name={"type": "string", "minLength": 3, "maxLength": 12}),
    record(bio={"type": "string", "minLength": 40, "maxLength": 60}),
    record(initials={"type": "string", "minLength": 2, "maxLength": 2}),
    record(scores=array({"type": "integer", "minimum": 1, "maximum": 5}, minItems=4, maxItems=4)),
    record(
        meta={
            "type": "object",
            "additionalProperties": {"type": "string"},
        }
    ),
    {"type": "object", "additionalProperties": WHOLE},
    record(
        config=record(db=record(host=TEXT, port=WHOLE, tls=FLAG), cache=record(ttl=WHOLE, enabled=FLAG)),
        debug=FLAG,
    ),
    record(a=record(b=record(c=record(d=record(e=record(f=FLAG)))))),
    array(record(role=one_of("system", "user", "assistant"), content=TEXT), minItems=2, maxItems=3),
    array(one_of("x", "y", "z"), minItems=3),
    array({"anyOf": [WHOLE, TEXT, FLAG, {"type": "null"}]}, minItems=2),
    {"type": "array", "prefixItems": [TEXT, WHOLE], "items": FLAG},
    record(
        latitude={"type": "number", "minimum": -90, "maximum": 90},
        longitude={"type": "number", "minimum": -180, "maximum": 180},
    ),
    record(percent={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 100}),
    record(step={"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}),
    record(
        ["title"],
        title=TEXT,
        subtitle=TEXT,
        year={"type": "integer", "minimum": 1450, "maximum": 2100},
        isbn={"type": "string", "pattern": "^97[89]-[0-9]{10}$"},
    ),
    record(
        question=TEXT,
        options=array(TEXT, minItems=4, maxItems=4),
        correct={"type": "integer", "minimum": 0, "maximum": 3},
    ),
    record(
        diagnosis=array(
            record(icd={"type": "string", "pattern": "^[A-Z][0-9]{2}(\\.[0-9])?$"}, certain=FLAG), maxItems=3
        )
    ),
    record(
        invoice=record(
            no={"type": "string", "pattern": "^RE-[0-9]{6}$"},
            lines=array(record(text=TEXT, net=NUMBER), minItems=1, maxItems=4),
            paid=FLAG,
        )
    ),
    record(
        weekday=one_of("Mo", "Di", "Mi", "Do", "Fr", "Sa", "So"),
        open={"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
    ),
    record(url={"type": "string", "format": "uri"}),
    record(host={"type": "string", "format": "hostname"}),
    record(duration={"type": "string", "format": "duration"}),
    record(**{"first name": TEXT, "e-mail (work)": TEXT, "Straße": TEXT}),
    record(**{'quote"d': WHOLE, "back\\slash": WHOLE, "tab\tname": WHOLE}),
    record(ключ=one_of("да", "нет"), 鍵=one_of("はい", "いいえ")),
    {
        "allOf": [
            {"type": "object", "properties": {"a": WHOLE}, "required": ["a"]},
            {"properties": {"b": TEXT}, "required": ["b"]},
        ]
    },
    {"const": {"ok": True, "items": [1, 2, 3]}},
    one_of(1, 2.5, "three", None, True, [1], {"k": "v"}),
    {"type": "string", "minLength": 1},
    {"type": "integer", "minimum": -5, "maximum": 5},
    {"anyOf": [{"type": "array", "items": WHOLE, "minItems": 2}, record(error=TEXT)]},
]
