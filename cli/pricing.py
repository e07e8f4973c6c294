"""The option that says what a device costs."""

import click

price_option = click.option(
    "--price-per-gpu-hour",
    "price",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Of one device, in any currency.",
)
