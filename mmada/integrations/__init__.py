"""The package in the clothes of other libraries: a pipeline for diffusers. Each file needs the library that it is named after."""
