"""Records of the Batch API that are damaged in the ledger: they cost their owner nothing but themselves."""

import pytest
from sqlalchemy import text

from tests.integration.serve_fixtures import ALICE, TOKENS, serving

pytestmark = pytest.mark.integration


def damage(store, table, record, assignment):
    with store.writer.begin() as connection:
        connection.execute(text(f"UPDATE {table} SET {assignment} WHERE id = :id"), {"id": record})


def pages(service, path):
    """The ids of a list, read page by page."""
    found, after = [], ""
    while True:
        page = service.get(f"{path}?limit=2{after}", ALICE)
        found += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            return found
        after = f"&after={found[-1]}"


@pytest.mark.parametrize(
    "assignment",
    ["times = '{\"in'", "times = '[]'", "metadata = '7'", "metadata = ''", "errors = '{}'", "times = 'null'"],
)
def test_a_damaged_batch_is_left_out_of_the_list(store, tmp_path, caplog, assignment):
    """One such record broke the whole list for its owner, and the service looked at it without end."""
    with serving(store, tmp_path / "serve", environ=TOKENS) as service:
        file_id = service.upload(token=ALICE)
        made = [service.create(file_id, token=ALICE) for _ in range(5)]
        for batch_id in made:
            service.until(batch_id, "in_progress", token=ALICE)
        for batch_id in made[1:4]:
            damage(store, "batches", batch_id, assignment)
        assert pages(service, "/v1/batches") == [made[4], made[0]]
        assert service.ask("GET", f"/v1/batches/{made[2]}", token=ALICE).status == 404
        assert service.ask("POST", f"/v1/batches/{made[2]}/cancel", token=ALICE).status == 404
        assert service.ask("POST", f"/v1/batches/{made[0]}/cancel", token=ALICE).status == 200
        service.until(made[0], "cancelled", token=ALICE)
    assert sorted(record.args[0] for record in caplog.records if "is damaged" in record.message) == sorted(
        made[1:4]
    )


@pytest.mark.parametrize("assignment", ["bytes = 'x'", "created_at = 'soon'", "expires_at = 9e999"])
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)  # Postgres keeps no text where a number belongs
def test_a_damaged_file_is_left_out_of_the_list(store, tmp_path, assignment):
    with serving(store, tmp_path / "serve", environ=TOKENS) as service:
        made = [service.upload(token=ALICE) for _ in range(5)]
        for file_id in made[1:4]:
            damage(store, "files", file_id, assignment)
        assert pages(service, "/v1/files") == [made[4], made[0]]
        assert service.ask("GET", f"/v1/files/{made[2]}", token=ALICE).status == 404
        service.until(service.create(made[0], token=ALICE), "in_progress", token=ALICE)
