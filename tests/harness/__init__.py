"""What tests share: real servers, clocks that stand still, connections that break on demand."""
