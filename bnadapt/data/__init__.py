"""Images and labels from TensorFlow Datasets or from folders, as the same three splits.

``availability`` needs the standard library only and says quickly whether the data are there;
``load`` describes and loads them.
"""
