"""Artifacts on disk. The only package that knows the directory scheme.

::

    <cache>/latents/<key>/        latents.npy  labels.npy  meta.json
    <cache>/prototypes/<key>.safetensors
    <cache>/matching/<key>.safetensors
    <cache>/features/<key>.safetensors
    <cache>/classifiers/<key>.safetensors   embedding networks
    <cache>/teachers/<key>.safetensors
    <result>/                     result.json  config.yaml  metrics.json  grid.png  report.html  students/<seed>.json
    <result>/set/                 <class name>/<rank>.png  manifest.json  README.md
    <result>/replicas/<number>/   sets, of which over-generation makes one

Nothing is ever half-written: files and folders get their names when they are complete.
"""
