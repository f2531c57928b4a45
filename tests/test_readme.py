# SPDX-License-Identifier: LGPL-2.1-or-later
"""What README.md says of the tool is so: its examples, its verbs, its links."""

import re
from pathlib import Path

import pytest

from libvirt_hooks import policy
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.command.parser import VERBS
from libvirt_hooks.domain import parse
from libvirt_hooks.policy import FailedDisable
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.life import UUID

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BDF = Bdf.parse("0000:03:00.0")
PAGES = ("README.md", "CONTRIBUTING.md", "docs/troubleshooting.md")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.S | re.M)


def test_the_first_screen_ends_before_the_first_heading() -> None:
    screen = TEXT.partition("\n## ")[0]
    assert len(screen.splitlines()) <= 30
    assert all(each in screen for each in ("without the hook", "**For you**", "**Not for you**"))


def test_the_policy_of_a_fleet() -> None:
    (text,) = blocks("toml")
    found = policy.resolve(text)
    assert found.failed_disable is FailedDisable.REFUSE
    assert found.quirk(BDF, 0x1234, 0x5678).flr_lethal_while_enabled


def test_the_policy_of_a_guest() -> None:
    (element,) = re.findall(r"--set \\\n  '(<policy .*</policy>)'", TEXT)
    (uri,) = set(re.findall(r"--uri (\S+)", TEXT))
    ours = element.replace("<policy ", f"<policy xmlns='{uri}' ", 1)
    xml = domain_xml("vault", UUID, [Assigned(BDF)]).decode()
    domain = parse(xml.replace("<devices>", f"<metadata>{ours}</metadata><devices>").encode())
    assert domain.policy_error is None
    assert domain.policy.deadline == 60
    assert domain.policy.expected[BDF].serial == "S2GLNX0HB00000"
    assert policy.resolve(blocks("toml")[0], domain.policy).deadline == 60


def test_every_verb_is_in_the_table() -> None:
    said = re.findall(r"^\| `virt-nvme-reset (\w+)", TEXT, re.M)
    assert set(said) == {verb.name for verb in VERBS}
    mentioned = re.findall(r"virt-nvme-reset ([a-z]+)[ `]", TEXT)
    assert set(mentioned) <= {verb.name for verb in VERBS}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)(.*?)\)", text):
        path, _, anchor = target.partition("#")
        where = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert where.exists(), target
        assert not anchor or anchor in anchors(where), target


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
