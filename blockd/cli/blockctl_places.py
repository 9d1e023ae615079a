"""`blockctl site` and `blockctl operator`."""

from typing import Annotated

import typer

from blockd.cli.blockctl_output import print_json, print_line, print_table
from blockd.cli.blockctl_session import Format, Output, run, session_of
from blockd.cli.blockctl_views import site_view
from blockd.rpc.gen import meta_pb2
from blockd.rpc.gen.types_pb2 import Operator, Site

sites = typer.Typer(help="Sites: data centres that hosts stand at.", no_args_is_help=True)
operators = typer.Typer(help="Operators: the companies that run sites.", no_args_is_help=True)


@sites.command("list")
def list_sites(context: typer.Context, output: Output = None) -> None:
    """List all sites."""
    answer = run(
        context,
        lambda clients: clients.meta.call(
            lambda meta: meta.ListSites, meta_pb2.ListSitesRequest(), idempotent=True
        ),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"sites": [site_view(site) for site in answer.sites]})
        return
    rows = [[site.name, site.city, site.operator, site.jurisdiction] for site in answer.sites]
    print_table(["site", "city", "operator", "jurisdiction"], rows, "no sites")


@sites.command("create")
def create_site(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9 and hyphens.")],
    operator: Annotated[str, typer.Option(help="The company that runs it.")],
    city: Annotated[str, typer.Option(help="For people.")] = "",
    jurisdiction: Annotated[str, typer.Option(help="ISO 3166 country code, as FR.")] = "",
    latitude: Annotated[float, typer.Option(help="Degrees north.")] = 0.0,
    longitude: Annotated[float, typer.Option(help="Degrees east.")] = 0.0,
    output: Output = None,
) -> None:
    """Make a site known; hosts register at sites that are."""
    site = Site(
        name=name,
        operator=operator,
        city=city,
        jurisdiction=jurisdiction,
        latitude=latitude,
        longitude=longitude,
    )
    created = run(
        context,
        lambda clients: clients.meta.call(lambda meta: meta.CreateSite, site, idempotent=True),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(site_view(created))
    else:
        print_line(f"site {created.name} of operator {created.operator}")


@operators.command("list")
def list_operators(context: typer.Context, output: Output = None) -> None:
    """List all operators."""
    answer = run(
        context,
        lambda clients: clients.meta.call(
            lambda meta: meta.ListOperators, meta_pb2.ListOperatorsRequest(), idempotent=True
        ),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"operators": [{"name": operator.name} for operator in answer.operators]})
        return
    print_table(["operator"], [[operator.name] for operator in answer.operators], "no operators")


@operators.command("create")
def create_operator(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9 and hyphens.")],
    output: Output = None,
) -> None:
    """Make an operator known."""
    created = run(
        context,
        lambda clients: clients.meta.call(
            lambda meta: meta.CreateOperator, Operator(name=name), idempotent=True
        ),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"name": created.name})
    else:
        print_line(f"operator {created.name}")
