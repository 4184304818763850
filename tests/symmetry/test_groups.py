"""Groups: their laws, their words, their names, and tables that are none."""

import pickle

import numpy as np
import pytest
import torch

from saehelpers.symmetry import Group, given_or_named, rotations_and_flips
from tests.symmetry.examples import ABOUT_X, ABOUT_Z, EXAMPLES, ORDERS, cube, products, time

NAMED = ["C1", "C2", "C4", "C8", "D1", "D2", "D4", "D8"]
V4 = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]


def example(name: str) -> Group:
    return EXAMPLES[name]()[0] if name in EXAMPLES else Group.named(name)


@pytest.mark.parametrize("name", [*NAMED, *EXAMPLES])
def test_laws_of_the_multiplication(name):
    group = example(name)
    elements = range(group.order)
    table = [[group.compose(a, b) for b in elements] for a in elements]
    assert group.multiplication.tolist() == table == [list(row) for row in group.table]
    for a in elements:
        assert sorted(table[a]) == list(elements)  # closure, and every equation is solvable
        assert table[a][0] == table[0][a] == a
        assert table[a][group.inverse(a)] == table[group.inverse(a)][a] == 0
        for b in elements:
            for c in elements:
                assert table[table[a][b]][c] == table[a][table[b][c]]


@pytest.mark.parametrize("name", EXAMPLES)
def test_elements_multiply_as_their_matrices_do(name):
    group, generators = EXAMPLES[name]()
    matrices = products(group, generators)
    assert group.order == ORDERS[name]
    for a in range(group.order):
        assert sum(torch.equal(matrices[a], other) for other in matrices) == 1
        for b in range(group.order):
            assert torch.equal(matrices[a] @ matrices[b], matrices[group.compose(a, b)])


def test_permutations_compose_as_plain_loops_do():
    group = cube()[0]
    made = []
    for word in group.words:
        places = list(range(6))
        for letter in reversed(word):  # the last acts first
            places = [(ABOUT_Z, ABOUT_X)[letter][place] for place in places]
        made.append(tuple(places))
    for a in range(24):
        for b in range(24):
            assert made[group.compose(a, b)] == tuple(made[a][place] for place in made[b])


@pytest.mark.parametrize("name", [*NAMED, *EXAMPLES])
def test_words_are_products_of_generators(name):
    group = example(name)
    for element, word in enumerate(group.words):
        product = 0
        for letter in word:
            product = group.compose(product, group.generators[letter])
        assert product == element
    assert len(set(group.words)) == group.order


def test_elements_of_cyclic_and_dihedral_groups_are_powers():
    c4, d4 = Group.named("C4"), Group.named("D4")
    assert c4.generators == (1,) and d4.generators == (1, 4)
    assert [c4.compose(1, p) for p in range(4)] == [1, 2, 3, 0]
    for p in range(4):
        for q in range(2):
            assert d4.words[p + 4 * q] == (0,) * p + (1,) * q
            assert d4.compose(p, 4 * q) == p + 4 * q
    assert d4.compose(4, 1) == d4.compose(d4.inverse(1), 4)  # h g = g^-1 h
    assert [d4.element_order(g) for g in range(8)] == [1, 4, 2, 4, 2, 2, 2, 2]
    assert d4.powers(3) == [0, 3, 2, 1]
    assert rotations_and_flips(c4) == (4, 1) and rotations_and_flips(d4) == (4, 2)


def test_permutations_and_products_are_numbered_as_the_groups_with_names():
    triangle = Group.from_permutations("triangle", [(1, 2, 0), (0, 2, 1)])
    assert triangle.table == Group.named("D3").table
    assert time()[0].table == Group.named("D6").table
    c2 = Group.named("C2")
    assert Group.product(c2, c2).table == Group.named("D2").table
    product = Group.product(Group.named("C3"), Group.named("D2"))
    assert (product.name, product.generators) == ("C3xD2", (1, 3, 6))
    for a in range(3):
        for b in range(4):
            # C3's element a and D2's b, and with them C3's 2 and D2's 3
            expected = (a + 2) % 3 + 3 * Group.named("D2").compose(b, 3)
            assert product.compose(a + 3 * b, 2 + 3 * 3) == expected


def test_generators_are_found_where_none_are_given():
    assert Group("V4", V4).generators == (1, 2)
    assert Group("V4", torch.tensor(V4), (3, 1)).generators == (3, 1)
    assert Group("C2 again", np.array([[0, 1], [1, 0]])).generators == (1,)
    assert Group("alone", [[0]]).generators == (0,)


@pytest.mark.parametrize("name", ["D4", "C113", "cube"])
def test_groups_are_values(name):
    group = example(name)
    copy = pickle.loads(pickle.dumps(group))
    assert copy == group and hash(copy) == hash(group) and copy.words == group.words
    assert len(pickle.dumps(group)) < 4000
    with pytest.raises(AttributeError):
        group.name = "other"


def test_what_stands_for_a_group_in_configs():
    v4 = Group("V4", V4)
    assert [Group.named(name).identifier for name in NAMED] == NAMED
    assert v4.identifier == Group("V4", torch.tensor(V4)).identifier
    assert v4.identifier.startswith("V4-") and len(v4.identifier) == len("V4-") + 8
    others = [Group("V4", V4, (1, 3)), Group("V4", Group.named("C4").table), Group("V", V4)]
    assert len({v4.identifier, *(other.identifier for other in others)}) == 4
    assert given_or_named(v4.identifier, v4) == v4 and given_or_named("D4", None).name == "D4"
    with pytest.raises(ValueError, match=r"the config's group is 'C4', the group given is 'V4-"):
        given_or_named("C4", v4)
    with pytest.raises(ValueError, match=r"unknown group 'V4-\w+'; .*must be given itself"):
        given_or_named(v4.identifier, None)


def test_a_printed_group_shows_what_it_is():
    assert str(Group.named("D2")) == (
        "D2: 4 elements, abelian\ngenerators: g = 1 (order 2), h = 2 (order 2)\n"
        "elements: 0 = e, 1 = g, 2 = h, 3 = g h"
    )
    shown = str(cube()[0]).splitlines()
    assert shown[0] == "cube: 24 elements, not abelian" and shown[2].endswith(", ...")
    three = Group.product(Group("V4", V4), Group.named("C2"))
    assert "g1 = 1 (order 2), g2 = 2 (order 2), g3 = 4 (order 2)" in str(three)
    assert repr(Group.named("C4")) == "<Group C4 of 4 elements>"


def test_inverses_of_tensors_of_elements():
    group = cube()[0]
    elements = torch.arange(24).view(4, 6)
    assert group.inverse(elements).flatten().tolist() == [group.inverse(g) for g in range(24)]


# --- what is no group, no element, no name ---


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 1], [1, 0], [0, 1]], r"must be square, \(order, order\), got \(3, 2\)"),
        ([[0, 1], [1]], "must be square, .* got rows of different lengths"),
        ([], "must be square"),
        (3, r"must be square, \(order, order\), got \(\)"),
        ([[0.0, 1.0], [1.0, 0.0]], "holds element numbers, got float64"),
        ([[0, 1], [1, 2]], r"2 elements holds 0 to 1, got table\[1\]\[1\] = 2"),
        ([[0, 1], [1, -1]], r"got table\[1\]\[1\] = -1"),
        ([[1, 0], [0, 1]], "element 0 must be the identity, and 0 0 = 1"),
        ([[0, 1], [0, 1]], "element 0 must be the identity, and 1 0 = 0"),
        ([[0, 1, 2], [1, 2, 0], [2, 1, 0]], r"not associative, \(1 1\) 1 = 1 and 1 \(1 1\) = 0"),
        ([[0, 1], [1, 1]], "element 1 has no inverse, no product of it is 0"),
    ],
)
def test_tables_that_are_no_groups(table, message):
    with pytest.raises(ValueError, match=message):
        Group("mine", table)


def test_associativity_is_found_to_fail_wherever_it_does():
    """Every exchange of two entries in a row of S3's table breaks a law."""
    table = torch.tensor(EXAMPLES["symmetric"]()[0].table)
    for row in range(1, 6):
        for column in range(1, 5):
            wrong = table.clone()
            wrong[row, column], wrong[row, column + 1] = table[row, column + 1], table[row, column]
            with pytest.raises(ValueError, match="no group: "):
                Group("wrong", wrong)


@pytest.mark.parametrize(
    ("generators", "message"),
    [
        ((1,), r"the generators \(1,\) make 2 of the 4 elements"),
        ((1, 4), "mine has elements 0 to 3, got 4"),
        ((1.0, 2.0), r"mine has elements 0 to 3, got 1\.0"),
    ],
)
def test_bad_generators(generators, message):
    with pytest.raises(ValueError, match=message):
        Group("mine", V4, generators)


@pytest.mark.parametrize(
    ("permutations", "message"),
    [
        ([], "needs a generator, got none"),
        ([(0, 1, 1)], r"generators\[0\] must be a permutation of 0 to 2, got \[0, 1, 1\]"),
        ([(1, 0), (1, 2, 0)], r"generators\[1\] must be a permutation of 0 to 1"),
        ([(1, 2, 3, 4, 5, 6, 7, 0), (1, 0, 2, 3, 4, 5, 6, 7)], "more than 4096 elements"),
    ],
)
def test_bad_permutations(permutations, message):
    with pytest.raises(ValueError, match=message):
        Group.from_permutations("mine", permutations)


@pytest.mark.parametrize("name", ["E4", "C0", "4", "c4", "C4x"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=f"unknown group '{name}'; known are"):
        Group.named(name)


def test_names_that_are_taken_or_too_large():
    for table, generators in ((V4, ()), (Group.named("C4").table, (3,))):
        with pytest.raises(ValueError, match="the name 'C4' is that of a cyclic"):
            Group("C4", table, generators)
    assert Group("C4", Group.named("C4").table) == Group.named("C4")
    with pytest.raises(ValueError, match="name must be a text that is not empty, got ''"):
        Group("", V4)
    with pytest.raises(ValueError, match="C9999 has more than 4096 elements"):
        Group.named("C9999")


@pytest.mark.parametrize(
    "element",
    [4, -1, 1.0, True, [1], None, *map(torch.tensor, (4, 1.0, [0, 9], [0, -1], [1.0], [True]))],
)
def test_what_is_no_element(element):
    group = Group.named("C4")
    with pytest.raises(ValueError, match="C4 has elements 0 to 3, got "):
        group.checked(element)
    with pytest.raises(ValueError, match="C4 has elements 0 to 3, got "):
        group.inverse(element)


def test_elements_may_be_any_integers():
    group = Group.named("C4")
    assert group.compose(np.int64(3), torch.tensor(2)) == 1
    assert group.checked(torch.tensor(3)) == 3 and group.checked(torch.empty(0).long()).numel() == 0


def test_other_groups_have_no_rotations_and_flips():
    with pytest.raises(ValueError, match="rotations and flips make up C_n and D_n, not S3"):
        rotations_and_flips(example("symmetric"))


def test_a_subgroup_has_the_table_of_its_elements():
    d4 = Group.named("D4")
    flips = d4.subgroup("D2", [0, 2, 4, 6])
    assert flips == Group.named("D2")
    mine = d4.subgroup("mine", [0, 5])
    assert mine.table == ((0, 1), (1, 0)) and mine.generators == (1,)
    for elements, message in (
        ([0, 1], "elements must have all of their products among them, 2 is missing in"),
        ([4, 0], "element 0 must be the identity"),
        ([0, 9], "D4 has elements 0 to 7, got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            d4.subgroup("mine", elements)
    with pytest.raises(ValueError, match=r"the generators \(1,\) make 2 of the 4 elements"):
        d4.subgroup("C4", [0, 2, 4, 6])
