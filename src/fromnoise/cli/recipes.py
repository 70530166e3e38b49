"""`fromnoise recipes` and `recipes show`."""

import typer
from rich.console import Console
from rich.table import Column, Table

recipes = typer.Typer(name="recipes", help="List the recipes of the package.")


@recipes.callback(invoke_without_command=True)
def recipes_list(context: typer.Context) -> None:
    """List the shipped recipes with what they were measured to take and reach."""
    if context.invoked_subcommand is not None:
        return
    from fromnoise.config.recipe import recipe_head, shipped_recipes

    table = Table(Column("recipe", no_wrap=True), "what", "time", "score")
    for name in shipped_recipes():
        head = recipe_head(name)
        table.add_row(name, head["about"], head["time"], head["score"])
    Console().print(table)


@recipes.command("show")
def recipes_show(name: str) -> None:
    """Print one recipe, to read or to start one's own from."""
    from fromnoise.config.recipe import recipe_text

    print(recipe_text(name), end="")
