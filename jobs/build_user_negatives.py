"""events, users, items, user_histories -> user_negatives, by `model.towers.negatives.explicit`.

    laptop:  spark-submit --properties-file conf/spark/local.properties \\
                 jobs/build_user_negatives.py conf/quickstart.yaml model.kind=two_tower \\
                 "model.towers.negatives.explicit.event_types=[view]" clean.event_weights.view=0
    cluster: spark-submit --properties-file conf/spark/cluster.properties --py-files recspark.zip \\
                 jobs/build_user_negatives.py conf/mine.yaml paths.lake=s3a://bucket/lake
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("negatives", __doc__)
