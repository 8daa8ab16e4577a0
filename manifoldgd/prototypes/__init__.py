"""Prototypes: what the sampler is guided towards, and real images chosen as baselines."""

from manifoldgd.prototypes.classes import Clusterer, cluster_classes
from manifoldgd.prototypes.coresets import (
    DRAW_NOTHING,
    SELECTIONS,
    herding,
    k_center,
    kmeans_nearest,
    random_real,
    select_classes,
)
from manifoldgd.prototypes.divisive import Divisive, LevelWise
from manifoldgd.prototypes.flat import Agglomerative, KMeans, Random
from manifoldgd.prototypes.representatives import ClassPrototypes, MeanOfNearest
from manifoldgd.prototypes.selection import level_wise
from manifoldgd.prototypes.spaces import (
    ClassifierEmbedding,
    ClusteringSpace,
    DenoiserFeatures,
    Features,
    PooledLatents,
    PrincipalComponents,
    RawLatents,
)
from manifoldgd.prototypes.tree import BisectingTree, Node

__all__ = [
    "DRAW_NOTHING",
    "SELECTIONS",
    "Agglomerative",
    "BisectingTree",
    "ClassPrototypes",
    "ClassifierEmbedding",
    "Clusterer",
    "ClusteringSpace",
    "DenoiserFeatures",
    "Divisive",
    "Features",
    "KMeans",
    "LevelWise",
    "MeanOfNearest",
    "Node",
    "PooledLatents",
    "PrincipalComponents",
    "Random",
    "RawLatents",
    "cluster_classes",
    "herding",
    "k_center",
    "kmeans_nearest",
    "level_wise",
    "random_real",
    "select_classes",
]
