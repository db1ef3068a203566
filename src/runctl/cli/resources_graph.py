"""`runctl resources graph`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runctl.cli import acting
from runctl.cli.options import Context, common, on_cloud, user_name

if TYPE_CHECKING:
    from runctl.safety.graph import Graph

PICTURES = frozenset({"svg", "html"})


@click.command()
@click.argument("resource", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tree", "dot", "mermaid", "svg", "html"]),
    default="tree",
    show_default=True,
    help="HTML is one page to move in, without network.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it to this file.")
@click.option("--regions", help="Such as us-east-1,eu-west-1, or all.")
@on_cloud
@common
def graph(
    context: Context, resource: str | None, on: str | None, form: str, out: Path | None, regions: str | None
) -> None:
    """Show what depends on what, what a deletion would take along, costs, and what is protected.

    RESOURCE is an id, the beginning of it, or a name: only what it needs and what needs it is shown.

    \b
    Examples:
      runctl resources graph
      runctl resources graph vol-0123456789abcdef0
      runctl resources graph --format html --out graph.html
    """
    from runctl.errors import ValidationError
    from runctl.render import output
    from runctl.resources.survey import survey
    from runctl.safety.graph import around

    if form in PICTURES and out is None and output.on_terminal():
        raise ValidationError(f"{form} is nothing for a terminal", next=f"--out graph.{form}")
    user = user_name(context.settings())
    with acting.operation(context, on) as operation:
        sessions = acting.sessions(context, operation, regions)
        found = survey(operation, sessions, user=user).graph
        where = f"{operation.session.cloud.name}, {', '.join(session.region for session in sessions)}"
    if resource is not None:
        found = around(found, resource)
    _write(context, found, form, out, where)


def _write(context: Context, found: Graph, form: str, out: Path | None, where: str) -> None:
    from runctl.render import graph as text
    from runctl.render import output
    from runctl.safety.graph import deletions, order

    if context.json:
        output.write_json({"nodes": found.nodes, "edges": found.edges, "deletions": deletions(found)})
        return
    if context.quiet:
        for node in order(found):
            output.write_line(node)
        return
    if form == "tree" and out is None:
        text.show_tree(found)
        return
    made = _made(found, form, where)
    if out is None:
        output.write_document(made)
        return
    output.write_file(out, made.encode())
    output.talk(f"{len(found.nodes)} resources are in {out}")


def _made(found: Graph, form: str, where: str) -> str:
    from runctl.render import graph as text

    if form == "svg":
        from runctl.render.graph_svg import svg

        return svg(found)
    if form == "html":
        from runctl.render.graph_page import page

        return page(found, title=f"Resources of {where}")
    return {"dot": text.dot, "mermaid": text.mermaid, "tree": text.tree_text}[form](found)
