"""What a run prints: its beginning, its epochs, its end."""

from services.trainer.worker.epoch_lines import EpochLines, words


def test_a_run_says_how_it_begins_and_where_it_goes_on() -> None:
    lines = EpochLines(3)
    begun = lines.begin(ranks=4, device="cpu", samples=1000, step=0, steps=90)
    assert begun == "4 ranks on cpu, 1000 samples, 3 epochs, 90 steps"
    resumed = lines.begin(ranks=1, device="cuda", samples=1000, step=30, steps=90)
    assert resumed == "1 rank on cuda, 1000 samples, 3 epochs, 90 steps, going on behind step 30"


def test_an_epoch_is_one_line_of_its_newest_values() -> None:
    lines = EpochLines(3)
    lines.take({"loss": 2.0, "accuracy": 0.1, "samples_per_s": 99.6, "learning_rate": 0.1})
    lines.take({"loss": 1.0, "accuracy": 0.5})
    lines.take({"validation_loss": 1.25})
    assert (
        lines.epoch(0, 30) == "epoch 1/3  step 30  accuracy 0.5000  loss 1.0000  validation_loss 1.2500  100 samples/s"
    )
    lines.take({"loss": 0.5})
    assert lines.epoch(1, 60) == "epoch 2/3  step 60  loss 0.5000"  # nothing of the epoch before
    assert lines.epoch(2, 90) == "epoch 3/3  step 90"


def test_metrics_in_words() -> None:
    assert words({"test_loss": 0.25, "loss": 1.0}) == "loss 1.0000  test_loss 0.2500"
