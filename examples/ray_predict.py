"""A Ray job: every picture under a folder or a bucket, classified by a bundle, into Parquet.

    ray job submit --address http://head:8265 -- python examples/ray_predict.py \
        /bundles/lavit_s.bundle s3://bucket/pictures s3://bucket/predictions --workers 8 --cpus 4

The bundle lies at the same path on every node. Needs `lavit-deploy[serve,predict,ray]` there.
"""

from __future__ import annotations

import argparse

import ray

from lavit_deploy.prediction.ray_data import predict_dataset


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", help="folder of lavit-export, the same on every node")
    parser.add_argument("pictures", help="folder or bucket")
    parser.add_argument("out", help="folder or bucket of the Parquet files")
    parser.add_argument("--workers", type=int, default=2, help="processes that predict")
    parser.add_argument("--cpus", type=int, default=1, help="cores of each")
    given = parser.parse_args()
    ray.init(ignore_reinit_error=True)
    cores = ray.cluster_resources()["CPU"]
    if given.workers * given.cpus >= cores:
        parser.error(
            f"{given.workers} workers of {given.cpus} cores leave none of {cores:.0f} to read files"
        )
    files = ray.data.read_binary_files(given.pictures, include_paths=True)
    answers = predict_dataset(files, given.bundle, workers=given.workers, cpus=given.cpus)
    answers.write_parquet(given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
