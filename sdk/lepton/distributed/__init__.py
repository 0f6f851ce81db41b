"""Distributed training in one call: a job on the fleet that is configured, or on a stack of this machine.

    from lepton import data, models
    from lepton.distributed import distributed_train

    config = distributed_train.DistributedTrainConfig(
        model=models.ImageClassifier(),
        data=[data.load_train_data(), data.load_test_data()],
        epochs=10,
        batch_size=32,
        gpu_count=4,
    )
    result = distributed_train.train(config)
    print(result.metrics["test_accuracy"], result.package)
    result.predict(images)

It works in a script and in a notebook alike.
"""
