"""Questions for the sample where no dataset is given: plain ones, each with an answer that can end."""

QUESTIONS = (
    "What can I do in Paris?",
    "Tell me about Lisbon.",
    "Give me three ideas for a day in Kyoto.",
    "What should I eat in Naples?",
    "Is Edinburgh worth a visit in winter?",
    "How do I get around in Berlin?",
    "What is Prague known for?",
    "Where should I stay in Vienna?",
    "What can children do in Copenhagen?",
    "When is the best time to see Marrakesh?",
    "How do I boil an egg?",
    "How can I sleep better?",
    "What is a good breakfast?",
    "How do I keep a plant alive?",
    "What should I pack for a short trip?",
    "How do I learn a language?",
)
