"""What a trained model made of the words of a text: the affinity of Eq. 4 and the filters of Eq. 3 (v2 Fig. 6, 7)."""
