import pytest

from avcompress.spec import DataError
from calibration.classes import ClassTable, nearest


def test_labels_map_through_aliases_onto_the_network_order() -> None:
    table = ClassTable.build(("car", "person"), [], {"van": "car", "sky": None})

    assert [table.index(name, "here") for name in ("person", "car", "van", "sky")] == [1, 0, 0, None]


def test_without_classes_the_table_is_the_labels_own_with_aliases_applied_once() -> None:
    assert ClassTable.build(None, ["a", "b", "c", "d"], {"b": "a", "c": None}).names == ("a", "d")


def test_an_unknown_label_is_named_with_the_nearest_class() -> None:
    with pytest.raises(
        DataError, match=r"here: expected a known class, got label 'trcuk'; the nearest class is 'Truck'"
    ):
        ClassTable(("Car", "Truck"), {}).index("trcuk", "here")


def test_an_alias_that_leads_nowhere_is_an_error_from_the_start() -> None:
    with pytest.raises(DataError, match=r"aliases\.Van: expected a class, got 'Cra'; the nearest class is 'Car'"):
        ClassTable(("Car", "Truck"), {"Van": "Cra"})


@pytest.mark.parametrize("names", [(), ("a", "b", "a")])
def test_no_class_and_doubled_classes_are_errors(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="expected distinct names"):
        ClassTable(names, {})


def test_a_name_like_none_of_them_is_answered_with_the_first_classes() -> None:
    assert nearest("zzz", [f"class {n}" for n in range(20)]).endswith("class 7, ...")


def test_the_alias_of_all_others_spares_classes_and_listed_labels() -> None:
    table = ClassTable.build(("car", "person"), [], {"van": "car", "*": None})
    assert [table.index(name, "here") for name in ("car", "van", "dog", "*")] == [0, 0, None, None]

    assert ClassTable.build(("car",), [], {"*": "car"}).index("tram", "here") == 0


def test_the_alias_of_all_others_needs_the_classes_that_it_leaves_alone() -> None:
    with pytest.raises(DataError, match=r"aliases\.\*: expected `classes` beside it, got none"):
        ClassTable.build(None, ["car", "dog"], {"*": None})
