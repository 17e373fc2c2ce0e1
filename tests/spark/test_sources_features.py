"""Features from files and from the generator: typed, joined by text ids, missing values filled."""

from dataclasses import replace

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from recspark.errors import SourceError
from recspark.sources.features import add_item_features, add_user_features, read_item_features, read_user_features
from recspark.sources.planted import PlantedWorld, item_id
from tests.helpers.sources import make_run, write_lines

pytestmark = pytest.mark.spark

SYNTHETIC = {"kind": "synthetic", "synthetic": {"num_items": 30, "num_clusters": 4, "num_users": 5}}


def feature(name, path, key, column, kind="categorical", **more):
    return {"name": name, "path": str(path), "key": key, "column": column, "kind": kind} | more


def by_id(frame, key):
    return {r[key]: r for r in frame.toArrow().to_pylist()}


def test_vectors_are_read_from_texts_and_from_lists(spark, lake, tmp_path):
    lines = write_lines(tmp_path / "texts.csv", "id,v", "1,0.5 -1e-3", '2,"[1, 2]"', "3,1 x", "4,", "5,7")
    lists = pa.table({"id": ["1", "2"], "v": pa.array([[0.1, 2], None], pa.list_(pa.float32()))})
    write_deltalake(tmp_path / "lists", lists)
    run = make_run(lake, SYNTHETIC, features=[
        feature("text", lines, "id", "v", "vector"),
        feature("list", tmp_path / "lists", "id", "v", "vector", format="delta"),
    ])  # fmt: skip
    features = read_item_features(spark, run)
    assert {f.dataType.simpleString() for f in features.schema if f.name != "item_id"} == {"array<float>"}
    found = by_id(features, "item_id")
    assert found["1"]["f_text"] == pytest.approx([0.5, -0.001])
    assert [found[i]["f_text"] for i in "2345"] == [[1, 2], None, None, [7]]
    assert found["1"]["f_list"] == pytest.approx([0.1, 2])
    assert found["2"]["f_list"] is None


def test_each_kind_gets_its_type_and_missing_its_value(spark, lake, tmp_path):
    films = write_lines(
        tmp_path / "films.csv", "movieId,title,genres,year,brand",
        '1,"A, B",Action| Comedy||Action,1999,x', '01,"""C""",(none),n/a,', "2,,,2000.5,z", "2,,,1900,y", ",no id,,,",
    )  # fmt: skip
    prices = write_lines(tmp_path / "prices.jsonl", '{"id": 1, "price": 2.5}', '{"id": 3, "price": 1}', "no json")
    run = make_run(lake, SYNTHETIC | {"max_bad_ratio": 0.4}, features=[
        feature("title", films, "movieId", "title", "text"),
        feature("genre", films, "movieId", "genres", "multi", missing="none|other"),
        feature("year", films, "movieId", "year", "numeric", missing="1950"),
        feature("price", prices, "id", "price", "numeric", format="jsonl"),
        feature("brand", films, "movieId", "brand", missing="-"),
        feature("land", films, "movieId", "brand", of="user"),
    ])  # fmt: skip
    features = read_item_features(spark, run)
    types = {f.name: f.dataType.simpleString() for f in features.schema}
    assert types == {
        "item_id": "string", "f_title": "string", "f_genre": "array<string>", "f_year": "float", "f_brand": "string",
        "f_price": "float",
    }  # fmt: skip
    raw = by_id(features, "item_id")
    assert set(raw) == {"1", "01", "2", "3"}
    assert (raw["2"]["f_year"], raw["2"]["f_brand"]) == (1900, "y")
    ids = list(enumerate(["1", "01", "2", "3", "4"]))
    items = spark.createDataFrame(ids, "item_idx int, item_id string")
    found = by_id(add_item_features(items, features, run), "item_id")
    assert len(found) == 5
    one = {"f_title": "A, B", "f_genre": ["Action", "Comedy"], "f_year": 1999, "f_brand": "x", "f_price": 2.5}
    assert found["1"] == {"item_id": "1", "item_idx": 0} | one
    assert found["01"]["f_title"] == '"C"'
    assert (found["01"]["f_year"], found["01"]["f_brand"], found["01"]["f_price"]) == (1950, "-", None)
    nothing = {"f_title": None, "f_genre": ["none", "other"], "f_year": 1950, "f_brand": "-", "f_price": None}
    assert found["4"] == {"item_id": "4", "item_idx": 4} | nothing
    users = spark.createDataFrame([(0, "2")], "user_idx int, user_id string")
    assert by_id(add_user_features(users, read_user_features(spark, run), run), "user_id")["2"]["f_land"] == "y"


def test_a_delta_table_is_read_at_the_version_of_the_run(spark, lake, tmp_path):
    path = str(tmp_path / "films")
    write_deltalake(path, pa.table({"id": [1], "genre": ["old"]}))
    run = make_run(lake, SYNTHETIC, features=[feature("genre", path, "id", "genre", format="delta")])
    write_deltalake(path, pa.table({"id": [1, 2], "genre": ["new", "new"]}), mode="overwrite")
    assert by_id(read_item_features(spark, run), "item_id") == {"1": {"item_id": "1", "f_genre": "old"}}
    gone = replace(run, source=run.source | {"feature_versions": {path: 9}})
    with pytest.raises(SourceError, match=r"^features\.genre\.path \S*films: version 9 cannot be read .*run again"):
        read_item_features(spark, gone)


def test_an_empty_feature_file_is_named_by_its_own_key(spark, lake, tmp_path):
    films = write_lines(tmp_path / "films.csv")
    run = make_run(lake, SYNTHETIC, features=[feature("genre", films, "id", "genre")])
    with pytest.raises(SourceError, match=r"^features\.genre\.path \S*films\.csv: the source is empty"):
        read_item_features(spark, run)


def test_synthetic_attributes_name_the_planted_cluster(spark, lake):
    run = make_run(lake, SYNTHETIC, features=[
        feature("category", "synthetic", "item_id", "category"),
        feature("price", "synthetic", "item_id", "price", "numeric"),
    ])  # fmt: skip
    found = by_id(read_item_features(spark, run), "item_id")
    cluster = PlantedWorld(run.config.source.synthetic, run.seed).cluster_of_item
    assert set(found) == {item_id(n) for n in range(30)}
    assert len({(found[item_id(n)]["f_category"], c) for n, c in enumerate(cluster)}) == 4
    assert all(r["f_price"] > 0 for r in found.values())


def test_without_features_there_is_nothing_to_join(spark, lake):
    run = make_run(lake, SYNTHETIC)
    assert read_item_features(spark, run) is None
    items = spark.range(3)
    assert add_item_features(items, None, run) is items


def test_wrong_features_are_named(spark, lake, tmp_path):
    films = write_lines(tmp_path / "films.csv", "movieId,title", "1,a")
    run = make_run(lake, SYNTHETIC, features=[feature("genre", films, "movie", "genres")])
    with pytest.raises(SourceError, match=r"features \(genre\), path \S*films\.csv: key: no column 'movie'; did you mean 'movieId'\?; column of genre: no column 'genres' \(columns there: movieId, title\)"):  # fmt: skip  # noqa: E501
        read_item_features(spark, run)
    run = make_run(lake, SYNTHETIC, features=[feature("age", "synthetic", "user_id", "age", of="user")])
    with pytest.raises(SourceError, match=r"features \(age\): path synthetic holds the generator's item attributes"):
        read_user_features(spark, run)
