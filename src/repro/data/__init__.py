"""The facts and task examples that are studied: EntityQuestions, atlas, GSM8K, XSum."""
