"""The list of backbones: its counts are those of the networks, and it finds their weights."""

import json

import pytest

from distill.backbones import BACKBONES
from distill.backbones.catalogue import backbone_rows, counts_of
from distill.backbones.weights.published import catalogue
from support import command

NETWORKS = [name for name in BACKBONES.names() if BACKBONES.facts(name).get("image_size")]


def test_every_network_is_counted():
    assert set(catalogue()) == set(NETWORKS)


@pytest.mark.parametrize("name", ["vgg16", "mobilenet", "mobilenet_v3_small", "resnet18"])
def test_the_counts_are_those_of_the_network(name):
    counts = counts_of(name)
    assert catalogue()[name]["num_parameters"] == counts.num_parameters
    assert catalogue()[name]["num_macs"] == counts.num_macs


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_all_counts_are_those_of_the_networks(name):
    counts = counts_of(name)
    assert catalogue()[name]["num_parameters"] == counts.num_parameters
    assert catalogue()[name]["num_macs"] == counts.num_macs


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        # He et al. 2015, table 1: 1.8 billion multiply-adds; torchvision: 11,689,512 parameters,
        # of which this count has the 9,600 running statistics of BatchNormalization, too.
        ("resnet18", 11_689_512 + 9_600, 1.81e9),
        # Sandler et al. 2018, table 4: 300 million multiply-adds; Keras: 3,538,984 parameters.
        ("mobilenet_v2", 3_538_984, 0.30e9),
        # Simonyan and Zisserman 2014: 15.3 billion in the convolutions, and a classifier on 512.
        ("vgg16", 14_714_688 + 512 * 1000 + 1000, 15.35e9),
    ],
)
def test_the_counts_are_those_of_the_papers(name, parameters, macs):
    assert catalogue()[name]["num_parameters"] == parameters
    assert catalogue()[name]["num_macs"] == pytest.approx(macs, rel=0.01)


def test_weights_in_the_folder_of_keras_are_here(keras_models):
    rows = {row.name: row for row in backbone_rows()}
    assert rows["vgg16"].imagenet_here == "no"
    assert rows["efficientnet_lite4"].imagenet_here == "none published"
    name = catalogue()["vgg16"]["imagenet"]["1.0"]["file"]
    (keras_models / name).write_bytes(b"weights")
    rows = {row.name: row for row in backbone_rows()}
    assert rows["vgg16"].imagenet_here == "yes"
    assert rows["vgg19"].imagenet_here == "no"


def test_distill_backbones_lists_all():
    outcome = command("distill", "backbones", "--json")
    assert outcome.code == 0
    rows = json.loads(outcome.out.splitlines()[-1])["backbones"]
    assert {row["name"] for row in rows} == set(NETWORKS)
    assert {"num_parameters", "num_macs", "image_size", "imagenet_here"} <= rows[0].keys()


def test_distill_backbones_prints_a_table():
    outcome = command("distill", "backbones")
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("vgg16 ")]
    assert line.split()[1:5] == ["15.2", "15,347", "224", "32"]
