"""Images or vectors and their labels from TensorFlow Datasets, folders or tables, as the same three splits.

``availability`` needs the standard library only and says quickly whether the data are there;
``load`` describes and loads them.
"""
