"Messages to a pizza service, for *Take it to your domain* of the lesson on the chatbot."
import csv

INTENTS = {
    "order": ["I would like a large margherita", "two pizzas with mushrooms please", "can I order for eight o'clock", "one salad and a pizza to take away",
              "we want to eat something with four people", "a calzone and a bottle of water", "please bring us three small pizzas", "I take the pizza of the day",
              "the same order as last week please"],
    "where is it": ["where is my pizza", "I have been waiting for an hour", "when will the driver be here", "has my order left already", "it should have come at seven",
                    "is my food on its way", "how much longer does the delivery take", "the driver cannot find my house", "still nothing has arrived"],
    "complaint": ["the pizza was cold", "there was a hair in my salad", "you forgot the drinks", "this is not what I ordered", "the box was open and half was missing",
                  "the crust is burnt", "I want my money back for this", "the waiter was rude", "it tasted of nothing"],
    "ingredients": ["is there milk in the dough", "do you have anything without gluten", "which pizza is vegan", "are there nuts in the pesto", "what is in the sauce",
                    "I am allergic to eggs", "how many calories has the calzone", "is the ham from pigs", "do you use real mozzarella"],
    "a job": ["are you looking for drivers", "I would like to work in your kitchen", "how much do you pay an hour", "do I need my own bicycle to deliver",
              "can I apply as a waiter", "is there work for students at weekends", "whom do I send my application to", "do you train new bakers", "I have experience as a cook"],
}


def make(folder):
    "A CSV with the columns text and label."
    path = folder / "pizza.csv"
    with open(path, "w", newline="", encoding="utf-8") as f:
        rows = [(text, intent) for intent, texts in INTENTS.items() for text in texts]
        csv.writer(f).writerows([("text", "label"), *rows])
    return path
