"""What the pages promise: the reference is the code's, every page can be found, links lead somewhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [path.name for path in sorted(DOCS.glob("*.md"))]
LINKING = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "deployments").glob("*.md")])
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _prose(page: Path) -> str:
    return _CODE.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown's table of contents and GitHub make them."""
    headings = [re.sub(r"[^\w\s-]", "", heading.lower()) for heading in _HEADING.findall(_prose(page))]
    return {re.sub(r"\s", "-", heading.strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_reference_in_the_pages_is_that_of_the_code(reference, page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert reference.written(text) == text, f"docs/{page} is not what the code says: run `make reference`"


def test_the_reference_is_in_the_pages():
    named = {name for page in PAGES for name in re.findall(r"<!-- reference (.*) -->", _prose(DOCS / page))}
    assert named == {"components", "configuration", "ranking configuration"}
    assert "| `train.batch_size` | integer ≥ 1 | `1024` |" in (DOCS / "configuration.md").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation_and_reachable_from_the_index():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(next(iter(entry.values())) if isinstance(entry, dict) else entry for entry in navigation) == PAGES
    reached, ahead = {"index.md"}, ["index.md"]
    while ahead:
        links = {link.partition("#")[0] for link in _LINK.findall(_prose(DOCS / ahead.pop()))}
        ahead += (new := links & set(PAGES) - reached)
        reached |= new
    assert sorted(reached) == PAGES


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    for link in _LINK.findall(_prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), f"{page.name}: {link}"
        # The site has the folder docs alone.
        assert page.parent != DOCS or target.is_relative_to(DOCS), f"{page.name}: {link} leads out of the site"
        assert not anchor or anchor in _anchors(target), f"{page.name}: {link}: no such heading"
