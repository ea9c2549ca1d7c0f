"""GGUF files, weights, the forward pass, the mesh. Knows no requests.

Shapes in all packages use one alphabet:

    T  tokens of a step          N  query heads            F  feed-forward width
    S  requests (slots)          K  key/value heads        V  vocabulary
    C  context                   G  = N / K                P  pages a request
    D  model width               H  head dimension         L  layers
"""
