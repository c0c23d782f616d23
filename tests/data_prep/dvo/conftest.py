"""Trees in a file, and the paths drawn from them."""

import pytest

from data_prep.dvo import paths
from data_prep.toy.tokenizer import build_tokenizer
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy
from tests.support.trees import grow_tree, write_trees

NUM_TREES = 24


@pytest.fixture(scope="session")
def toy_tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def trees(toy_tokenizer):
    """The first two have no right answer."""
    return [grow_tree(n, toy_tokenizer, 0.5 if n > 1 else 0.0) for n in range(NUM_TREES)]


@pytest.fixture(scope="session")
def tree_file(trees, tmp_path_factory):
    return write_trees(tmp_path_factory.mktemp("trees") / "trees.jsonl", trees)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="session")
def value_model(tmp_path_factory):
    return save_tiny_classifier(tmp_path_factory.mktemp("value_model"))


@pytest.fixture(scope="session")
def path_args(tree_file, tmp_path_factory):
    """Flags of a run with a quarter of the problems for validation, five trees a file."""
    return paths.PathsArgs(
        input=(tree_file,),
        output=tmp_path_factory.mktemp("data") / "paths",
        validation_share=0.25,
        rows_per_file=5,
    )


@pytest.fixture(scope="session")
def path_folder(path_args):
    paths.run(path_args)
    return path_args.output
