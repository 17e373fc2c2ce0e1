"""user_histories -> als_factors, of the baseline `als`, by MLlib.

laptop:  spark-submit --properties-file conf/spark/local.properties jobs/build_als_factors.py conf/quickstart.yaml \\
    "baselines.names=[popularity, als]"
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("als", __doc__)
