"""user_histories -> the item_knn baseline's own item_graph.

laptop:  spark-submit --properties-file conf/spark/local.properties jobs/build_item_knn_graph.py conf/quickstart.yaml
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("item_knn_graph", __doc__)
