"""item_graph -> walks.

    laptop:  spark-submit --properties-file conf/spark/local.properties jobs/build_walks.py conf/quickstart.yaml
    cluster: spark-submit --properties-file conf/spark/cluster.properties --py-files recspark.zip \\
                 jobs/build_walks.py conf/production.yaml paths.lake=s3a://bucket/lake
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("walks", __doc__)
