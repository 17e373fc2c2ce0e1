"""item_graph, items -> item_graph_edges, where `graph.edge_table` asks for it.

    laptop:  spark-submit --properties-file conf/spark/local.properties jobs/build_graph_edges.py conf/quickstart.yaml
    cluster: spark-submit --properties-file conf/spark/cluster.properties --py-files recspark.zip \\
                 jobs/build_graph_edges.py conf/production.yaml paths.lake=s3a://bucket/lake
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("graph_edges", __doc__)
