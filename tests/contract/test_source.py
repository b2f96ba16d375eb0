from hypothesis import given, settings

import tidegate.contract.declare as tg
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract, Schema
from tidegate.contract.source import to_source
from tidegate.testing import strategy


def declared_by(source, *, batched=True):
    namespace = {"__name__": "service"}
    exec(compile(source, "service.py", "exec"), namespace)
    return tg.contract_of(namespace["Input"], namespace["Output"], batched=batched)


@settings(max_examples=60)
@given(strategy.contracts())
def test_source_declares_the_same_contract_again(contract):
    assert declared_by(to_source(contract), batched=contract.batched) == contract


def test_source_is_as_a_person_would_write_it():
    contract = Contract(
        Schema(
            (
                Field("carrier", DataType.CATEGORY, categories=("AA", "UA")),
                Field("dest", DataType.STRING),
                Field("distance", DataType.FLOAT64, gt=0.0, unit="mile"),
                Field("wind", DataType.FLOAT32, optional=True),
                Field("seats", DataType.INT64, optional=True, default=3),
                Field("at", DataType.TIMESTAMP, roles=(Role.TIMESTAMP,)),
                Field("free", DataType.FLOAT64, shape=(None,)),
                Field("image", DataType.FLOAT32, shape=(3, 8)),
                Field("tail", DataType.STRING, roles=(Role.KEY,), sensitive=True),
            )
        ),
        Schema((Field("p", DataType.FLOAT64, ge=0.0, le=1.0, doc="probability"),)),
    ).checked()

    assert to_source(contract, input_name="Flight", output_name="Delay") == (
        "from datetime import datetime\n"
        "\n"
        "import numpy as np\n"
        "\n"
        "import tidegate as tg\n"
        "\n"
        "\n"
        "class Flight(tg.Input):\n"
        "    carrier: str = tg.category('AA', 'UA')\n"
        "    dest: str\n"
        "    distance: float = tg.field(gt=0.0, unit='mile')\n"
        "    wind: np.float32 | None\n"
        "    seats: int = tg.field(default=3)\n"
        '    at: datetime = tg.timestamp(role="timestamp")\n'
        "    free: list[float] = tg.vector()\n"
        "    image: list[list[np.float32]] = tg.vector(shape=(3, 8))\n"
        '    tail: str = tg.field(role="key", sensitive=True)\n'
        "\n"
        "\n"
        "class Delay(tg.Output):\n"
        "    p: float = tg.field(ge=0.0, le=1.0, doc='probability')\n"
    )


def test_long_declaration_is_broken_into_lines():
    values = tuple(f"category number {number}" for number in range(12))
    contract = Contract(
        Schema((Field("c", DataType.CATEGORY, categories=values),)), Schema((Field("y", DataType.BOOL),))
    )
    source = to_source(contract)

    assert max(map(len, source.splitlines())) < 100
    assert declared_by(source) == contract


def test_imports_can_be_left_out():
    contract = Contract(Schema((Field("x", DataType.BOOL),)), Schema((Field("y", DataType.BOOL),)))

    assert to_source(contract, imports=False).startswith("class Input(tg.Input):\n    x: bool\n")
