"""`mdrt batch --ray` on a cluster of three nodes of which one is killed.

Needs the extra ray, about a minute and 2 GB; `pytest -m extras tests/batch`.
"""

import threading
import time

import pytest
from click.testing import CliRunner
from PIL import Image
from test_batch import labels_of

from mdrt.cli import main

pytestmark = pytest.mark.extras
PICTURES = 36


SMALL = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # where the machine is busy
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray")
    import ray

    found = utils.Cluster(initialize_head=True, head_node_args=SMALL | {"include_dashboard": False})
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def test_every_picture_once_though_a_node_is_killed(cluster, picture, tmp_path):
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    for number in range(PICTURES):
        Image.fromarray(picture[number:, number:]).save(album / f"{number:02d}.png")
    nodes = [cluster.add_node(**SMALL) for _ in range(2)]
    cluster.wait_for_nodes()
    killed = []

    def kill():
        """A node whose worker has a shard in hand, once the first ones are there."""
        from ray._private.state import actors

        while True:
            time.sleep(0.05)
            if len(list(out.glob("shards/[0-9]*"))) < 2 or not list(out.glob("shards/.*")):
                continue
            busy = {
                one["Address"]["NodeID"] for one in actors().values() if one["State"] == "ALIVE"
            }
            for node in nodes:
                if node.node_id in busy:
                    cluster.remove_node(node, allow_graceful=False)
                    killed.append(node.node_id)
                    return

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    words = ["--classes", "sky, water", "--shard", "3"]
    ray_words = ["--ray", cluster.address, "--workers", "3", "--cpus", "1"]
    done = CliRunner().invoke(main, ["batch", str(album), str(out), *words, *ray_words])
    assert done.exit_code == 0, done.output
    thread.join(1)
    assert killed
    assert f"{PICTURES} of {PICTURES} pictures" in done.stdout
    alone = CliRunner().invoke(main, ["batch", str(album), str(tmp_path / "one"), *words])
    assert alone.exit_code == 0, alone.output
    found = labels_of(out)
    assert len(found) == PICTURES
    assert found == labels_of(tmp_path / "one")


def test_a_shard_may_take_long(cluster, picture, tmp_path, monkeypatch):
    """Longer than Ray Data waits for progress, half an hour as it comes: here a second."""
    import ray

    context = ray.data.DataContext.get_current()
    if not hasattr(context, "execution_no_progress_timeout_s"):
        pytest.skip("this Ray waits as long as it takes")
    monkeypatch.setattr(context, "execution_no_progress_timeout_s", 1)
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    for number in range(30):
        Image.fromarray(picture[number:, number:]).save(album / f"{number:02d}.png")
    words = ["--classes", "sky, water", "--ray", cluster.address]
    done = CliRunner().invoke(main, ["batch", str(album), str(out), *words])
    assert done.exit_code == 0, done.output
    assert "30 of 30 pictures" in done.stdout
