"""item_embeddings and user_histories -> recommendations (purpose test) and metrics, baselines beside the model.

python jobs/evaluate.py conf/quickstart.yaml evaluate.search=index
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("evaluate", __doc__)
