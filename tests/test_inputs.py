"""New cases: which file is which channel, and what is said where that is not clear."""

import pytest
from test_predict import plan_of

from mist_core.errors import DataError
from mist_core.inputs import case_of_files, cases_in_folder, cases_of_table
from mist_core.plan import parse_plan


def plan_for(*channels, optional=(), **names):
    fields = plan_of().model_dump(mode="json")
    info = {"images": channels, "image_names": names, "optional_images": optional}
    fields["dataset_info"] |= info
    return parse_plan(fields, "test")


TWO = plan_for("t1", "t1c", t1=["t1."], t1c=["t1c.", "t1gd."])
ONE = plan_for("ct")
EITHER = plan_for("t1", "t1c", optional=["t1c"], t1=["t1."], t1c=["t1c.", "t1gd."])


def files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def named(cases):
    """File names of the cases by id, None for a missing channel; a problem as it is."""
    return {i: [p and p.name for p in c.images] or c.problem for i, c in cases.items()}


def in_folder(folder, plan):
    return named(cases_in_folder(folder, plan, folder / "config.json"))


def test_columns_may_stand_in_any_order_and_ids_stay_text(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("t1c,mask,id,t1\nb,m,007,a\nd,m,7,c\n")
    assert named(cases_of_table(table, TWO)) == {"007": ["a", "b"], "7": ["c", "d"]}


def test_an_empty_cell_is_the_problem_of_its_case(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,t1,t1c\n1,a,\n2,a,b\n3,a\n4, ,\n")
    cases = cases_of_table(table, TWO)
    assert named(cases)["2"] == ["a", "b"]
    for case, channel in (("1", "t1c"), ("3", "t1c"), ("4", "t1 and t1c")):
        with pytest.raises(DataError, match=f"t.csv: expected a file for channel {channel}, found"):
            cases[case].files()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,t1\n1,a\n", "expected columns id, t1, t1c, found id, t1. Add t1c."),
        ("", "found no rows"),
        ("id,t1,t1c\n", "found no rows"),
        ("id,t1,t1c\n1,a,b\n1,a,b\n", "expected every id once, found 1 2 times"),
        ("id,t1,t1c\n../1,a,b\n", "expected an id without /"),
        ("id,t1,t1c\n,a,b\n", "expected an id without /"),
        ("id,t1,t1c\nMean,a,b\n", "found 'Mean'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, reason):
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(DataError) as caught:
        cases_of_table(table, TWO)
    assert reason in str(caught.value)
    assert str(table) in str(caught.value)


def test_the_files_of_one_case_stand_in_any_order():
    found = case_of_files("01", ["t1c=/x/a=b.nii", "t1=c.nii"], TWO)
    assert named(found) == {"01": ["c.nii", "a=b.nii"]}


def test_files_of_patients_are_known_as_those_of_training_were(tmp_path):
    files(tmp_path, "01/x_t1.nii.gz", "01/x_t1gd.nii.gz", "01/notes.txt", "list.csv")
    files(tmp_path, "02/t1.nii", "03/t1.nii", "03/t1c.nii", "03/old_t1c.nii.gz")
    found = in_folder(tmp_path, TWO)
    assert found["01"] == ["x_t1.nii.gz", "x_t1gd.nii.gz"]
    assert "for channel t1c, found none" in found["02"]
    assert "for channel t1c, found old_t1c.nii.gz, t1c.nii" in found["03"]
    assert f"in {tmp_path}/config.json" in found["02"]


def test_a_plan_without_substrings_knows_files_by_the_names_of_channels(tmp_path):
    files(tmp_path, "01/x_flair.nii.gz", "01/x_t2.nii.gz", "02/a.nii.gz", "02/b.nii.gz")
    found = in_folder(tmp_path, plan_for("t2", "flair"))
    assert found["01"] == ["x_t2.nii.gz", "x_flair.nii.gz"]
    assert "with 't2' in its name for channel t2, found none" in found["02"]


def test_folders_of_predictions_are_no_patients(tmp_path):
    files(tmp_path, "01/t1.nii", "01/t1c.nii", "list.csv", "old/predictions.csv", "old/01.nii.gz")
    (tmp_path / "new").mkdir()
    found = cases_in_folder(tmp_path, TWO, tmp_path / "config.json", tmp_path / "01/../new")
    assert named(found) == {"01": ["t1.nii", "t1c.nii"]}
    files(tmp_path / "b", "x.nii.gz", "out/.done/x.json")
    found = cases_in_folder(tmp_path / "b", ONE, tmp_path / "config.json", tmp_path / "b/out")
    assert named(found) == {"x": ["x.nii.gz"]}


def test_patients_and_images_side_by_side_are_refused(tmp_path):
    files(tmp_path, "01/ct.nii", "02.NII.GZ", "notes.txt")
    with pytest.raises(DataError) as caught:
        in_folder(tmp_path, ONE)
    assert str(caught.value) == (
        f"{tmp_path}: expected folders of patients or files of images, found both, such as 01/ and "
        "02.NII.GZ. Put them into folders of their own, or name the files in a table (--paths-csv)."
    )


def test_one_channel_needs_no_number(tmp_path):
    files(tmp_path, "a.b.nii.gz", "c_0000.nii.gz", "d.mha", "d.json", ".hidden")
    assert in_folder(tmp_path, ONE) == {
        "a.b": ["a.b.nii.gz"],
        "c": ["c_0000.nii.gz"],
        "d": ["d.mha"],
    }


def test_numbers_are_the_channels_in_the_order_of_the_plan(tmp_path, caplog):
    caplog.set_level("INFO")
    files(tmp_path, "x_0001.nii.gz", "x_0000.nii.gz", "y_0001.nii.gz")
    found = in_folder(tmp_path, TWO)
    assert found["x"] == ["x_0000.nii.gz", "x_0001.nii.gz"]
    assert "found no y_0000 (t1)" in found["y"]
    assert "by the numbers in the names of files: t1 *_0000, t1c *_0001" in caplog.text


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["x_0000.nii.gz", "x_0002.nii.gz"],
            "x_0002.nii.gz: expected the name of a case",
        ),
        (["x.nii.gz"], "x.nii.gz: expected the name of a case and _0000 to _0001, for 2 channels"),
        (["x_0000.nii.gz", "x_0000.nii"], "found x_0000.nii too"),
        ([], "expected folders of patients, or images, found none"),
    ],
)
def test_names_that_say_nothing_are_refused(tmp_path, names, reason):
    files(tmp_path, *names)
    with pytest.raises(DataError) as caught:
        in_folder(tmp_path, TWO)
    assert reason in str(caught.value)


# --- optional channels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "t1c"),
    [
        ("id,t1,t1c\n1,a,\n", None),
        ("id,t1c,t1\n1, ,a\n", None),
        ("id,t1\n1,a\n", None),
        ("id,t1,t1c\n1,a\n", None),
        ("id,t1,t1c\n1,a,b\n", "b"),
    ],
)
def test_a_cell_or_the_column_of_an_optional_channel_may_be_missing(tmp_path, text, t1c):
    table = tmp_path / "t.csv"
    table.write_text(text)
    assert named(cases_of_table(table, EITHER)) == {"1": ["a", t1c]}


def test_the_column_and_the_cells_of_a_required_channel_may_not(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,t1,t1c\n1,,b\n")
    (found,) = named(cases_of_table(table, EITHER)).values()
    assert "expected a file for channel t1, found an empty cell" in found
    table.write_text("id,t1c\n1,b\n")
    with pytest.raises(DataError, match=r"expected columns id, t1, found id, t1c. Add t1\."):
        cases_of_table(table, EITHER)


def test_an_optional_channel_may_be_left_out_of_the_files_of_a_case():
    assert named(case_of_files("1", ["t1=a"], EITHER)) == {"1": ["a", None]}
    assert named(case_of_files("1", ["t1c=b", "t1=a"], EITHER)) == {"1": ["a", "b"]}
    for words in (["t1c=b"], ["t1=a", "t1c"], ["t1=a", "t1c="], ["t1=a", "t2=b"], ["t1=a", "t1=b"]):
        with pytest.raises(DataError, match=r"expected t1=FILE \[t1c=FILE\], found t1"):
            case_of_files("1", words, EITHER)


def test_a_patient_may_lack_an_optional_channel(tmp_path):
    files(tmp_path, "01/x_t1.nii.gz", "02/t1.nii", "02/t1gd.nii", "03/t1c.nii")
    found = in_folder(tmp_path, EITHER)
    assert found["01"] == ["x_t1.nii.gz", None]
    assert found["02"] == ["t1.nii", "t1gd.nii"]
    assert "for channel t1, found none" in found["03"]


def test_the_number_of_an_optional_channel_may_be_missing(tmp_path):
    files(tmp_path, "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz", "z_0001.nii.gz")
    found = in_folder(tmp_path, EITHER)
    assert found["x"] == ["x_0000.nii.gz", None]
    assert found["y"] == ["y_0000.nii.gz", "y_0001.nii.gz"]
    assert "found no z_0000 (t1)" in found["z"]


def test_blanks_around_cells_do_not_count(tmp_path):
    (tmp_path / "p.csv").write_text("id, t1\n 001, a.nii.gz \n".replace(", t1", ",t1"))
    assert named(cases_of_table(tmp_path / "p.csv", plan_for("t1"))) == {"001": ["a.nii.gz"]}


def test_a_row_with_a_cell_too_many_is_told_in_words(tmp_path):
    (tmp_path / "p.csv").write_text("id,x\n1,2,3\n")
    with pytest.raises(DataError, match="expected columns id, t1, found id, x"):
        cases_of_table(tmp_path / "p.csv", plan_for("t1"))


def test_files_that_are_no_images_are_no_cases_and_endings_may_be_in_capitals(tmp_path, caplog):
    files(tmp_path, "01.nii.gz", "02.NII.GZ", "Thumbs.db", "README", "notes.txt")
    with caplog.at_level("INFO"):
        found = in_folder(tmp_path, plan_for("t1"))
    assert sorted(found) == ["01", "02"]
    assert f"{tmp_path}: not taken for images: README, Thumbs.db" in caplog.messages
