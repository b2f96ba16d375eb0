"""Model runtimes: the engines that run a graph, a booster or a fitted pipeline."""
