"""What a rank runs for a built-in recipe: started by an agent's launcher as `services.trainer.worker`."""
