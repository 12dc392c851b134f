"""Taobao's ad log: the published CSV files by Chinese days, the Parquet as a day of train and a day of test."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.datasets import taobao_ad
from recsys_core.datasets.taobao_ad import Config
from recsys_core.progress import silent

PROFILE = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
)


@pytest.fixture
def official(tmp_path: Path, at: Callable[..., int]) -> Path:
    """Write the three published files, tiny: one of them compressed, the header of another padded as published."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [
        (2, at(2017, 5, 6, 15, 59, 59), 11, "430548_1007", 0, 1),
        (1, at(2017, 5, 6, 16), 10, "430548_1007", 0, 1),
        (1, at(2017, 5, 6, 16, 0, 1), 11, "430548_1007", 1, 0),
    ]
    log = "user,time_stamp,adgroup_id,pid,nonclk,clk\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    (folder / "raw_sample.csv.gz").write_bytes(gzip.compress(log.encode()))
    ads = "adgroup_id,cate_id,campaign_id,customer,brand,price\n10,1,2,3,NULL,170.5\n11,1,2,3,4,9.0\n"
    (folder / "ad_feature.csv").write_text(ads)
    (folder / "user_profile.csv").write_text(f"userid,{','.join(PROFILE)},new_user_class_level \n1,0,5,2,5,,3,0,\n")
    return folder


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Write a tiny folder of Parquet, whose codes have 0 for what is missing."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    users = {"user_id": [0, 1]} | dict.fromkeys((*PROFILE, "new_user_class_level"), pa.array([0, 1], pa.int32()))
    items = {"adgroup_id": [0, 1], "cate_id": [0, 1], "brand": [0, 1], "price_level": [0, 1]}
    train = {"user_id": [0, 0, 1], "adgroup_id": [1, 0, 1]}
    for name, columns in (
        ("train", train),
        ("test", {"user_id": [1], "adgroup_id": [0]}),
        ("users", users),
        ("items", items),
    ):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def test_clicks_of_the_published_files_by_chinese_days(
    tmp_path: Path, official: Path, at: Callable[..., int], read_log: Callable[..., Any]
):
    counts = taobao_ad.write(Config(source=str(official)), tmp_path / "log", silent)
    assert counts[2:] == (2, 2, 2, 2)
    assert read_log(tmp_path / "log", "interactions") == {
        "2017-05-06": [{"user_id": 2, "item_id": 11, "timestamp": at(2017, 5, 6, 23, 59, 59)}],
        "2017-05-07": [{"user_id": 1, "item_id": 10, "timestamp": at(2017, 5, 7)}],
    }
    known, unknown = read_log(tmp_path / "log", "users")["2017-05-06"]
    assert known == {"user_id": 1} | dict(zip(PROFILE, (0, 5, 2, 5, None, 3, 0), strict=True)) | {
        "new_user_class_level": None
    }
    assert unknown == {"user_id": 2} | dict.fromkeys((*PROFILE, "new_user_class_level"))
    assert read_log(tmp_path / "log", "items")["2017-05-06"][0] == {
        "item_id": 10,
        "cate_id": 1,
        "campaign_id": 2,
        "customer": 3,
        "brand": None,
        "price": 170.5,
    }


def test_impressions_and_another_time_zone_on_demand(
    tmp_path: Path, official: Path, at: Callable[..., int], read_log: Callable[..., Any]
):
    config = Config(source=str(official), clicks_only=False, utc_offset_hours=0)
    taobao_ad.write(config, tmp_path / "log", silent)
    days = read_log(tmp_path / "log", "interactions")
    assert {day: [(row["user_id"], row["clk"]) for row in rows] for day, rows in days.items()} == {
        "2017-05-06": [(2, 1), (1, 1), (1, 0)]
    }


def test_the_parquet_is_a_day_of_train_and_a_day_of_test(
    tmp_path: Path, parquet: Path, at: Callable[..., int], read_log: Callable[..., Any]
):
    taobao_ad.write(Config(source=str(parquet)), tmp_path / "log", silent)
    assert read_log(tmp_path / "log", "interactions") == {
        "2017-05-12": [
            {"user_id": user, "item_id": item, "timestamp": at(2017, 5, 12)} for user, item in ((0, 0), (0, 1), (1, 1))
        ],
        "2017-05-13": [{"user_id": 1, "item_id": 0, "timestamp": at(2017, 5, 13)}],
    }
    users = read_log(tmp_path / "log", "users")
    assert list(users) == ["2017-05-12"]
    missing = [name for name, value in users["2017-05-12"][0].items() if value is None]
    assert missing == ["pvalue_level", "new_user_class_level"]
    brands = [row["brand"] for row in read_log(tmp_path / "log", "items")["2017-05-12"]]
    assert brands == [None, 1]


def test_an_ad_without_features_is_refused(tmp_path: Path, official: Path):
    (official / "ad_feature.csv").write_text("adgroup_id,cate_id,campaign_id,customer,brand,price\n10,1,2,3,4,1.0\n")
    with pytest.raises(ValueError, match="the log names 1 ads that ad_feature lacks, such as 11"):
        taobao_ad.write(Config(source=str(official)), tmp_path / "log", silent)


def test_a_log_without_clicks_is_refused(tmp_path: Path, official: Path):
    log = "user,time_stamp,adgroup_id,pid,nonclk,clk\n1,1494000000,10,430548_1007,1,0\n"
    (official / "raw_sample.csv.gz").write_bytes(gzip.compress(log.encode()))
    with pytest.raises(ValueError, match="the log has no rows"):
        taobao_ad.write(Config(source=str(official)), tmp_path / "log", silent)


def test_the_research_data(tmp_path: Path, recsys_data: Callable[[str], Path]):
    counts = taobao_ad.write(Config(source=str(recsys_data("taobao-ad"))), tmp_path / "log", silent)
    assert counts[2:] == (2, 227_108 + 54_723, 33_932, 24_624)
