"""Fill the text templates of `qkd/bundle/templates/`: C sources, build files and read-me texts."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **facts: object) -> str:
    """The text of `templates/<template>` filled with `facts`; a missing fact is an error, never an empty string."""
    return _environment().get_template(template).render(**facts)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("qkd.bundle", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is C and Markdown, not HTML
    )
