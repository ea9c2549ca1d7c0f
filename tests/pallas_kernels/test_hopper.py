"""Which devices run the kernels, and which write to each other's memory."""

from types import SimpleNamespace

import pytest

from models import demo
from models.config import ModelConfig, model_config
from models.gguf_file import open_gguf
from models.operations import choose_operations
from pallas_kernels import hopper
from pallas_kernels.hopper import reach_each_other


def devices(count: int, capability: str = "9.0") -> list[SimpleNamespace]:
    return [
        SimpleNamespace(local_hardware_id=i, compute_capability=capability) for i in range(count)
    ]


@pytest.fixture
def link(monkeypatch):
    """link(attributes that pairs have, pairs that have none): a driver that says so."""

    def install(attributes, apart=()):
        def answer(into, attribute, own, other):
            into._obj.value = int(attribute in attributes and (own, other) not in apart)
            return 0

        driver = SimpleNamespace(cuDeviceGetP2PAttribute=answer)
        monkeypatch.setattr(hopper.ctypes, "CDLL", lambda name: driver)

    return install


def test_gpus_at_nvlink_reach_each_other(link):
    link({2, 3})
    assert reach_each_other(devices(2)) and reach_each_other(devices(8))
    assert not reach_each_other(devices(1)), "there is nobody to reach"


def test_pcie_is_not_enough_and_every_pair_counts(link):
    link({2})
    assert not reach_each_other(devices(2))
    link({2, 3}, apart={(3, 1)})
    assert reach_each_other(devices(2)) and not reach_each_other(devices(4))


def test_without_a_driver_nobody_is_reached(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(hopper.ctypes, "CDLL", missing)
    assert not reach_each_other(devices(2))


def test_a_question_that_fails_is_a_no(monkeypatch):
    driver = SimpleNamespace(cuDeviceGetP2PAttribute=lambda *_: 101)
    monkeypatch.setattr(hopper.ctypes, "CDLL", lambda name: driver)
    assert not reach_each_other(devices(2))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return model_config(open_gguf(demo.PATH))


def test_sums_go_through_the_devices_memory_where_all_fits(link, config):
    link({2, 3})
    assert choose_operations(devices(2), config, itemsize=2, activation=2).one_shot
    assert not choose_operations(devices(1), config, itemsize=2, activation=2).one_shot
    assert not choose_operations(devices(2, "8.0"), config, itemsize=2, activation=2).one_shot
    # a wide residual stream is summed by XLA
    assert not choose_operations(devices(2), config, itemsize=2, activation=4).one_shot
