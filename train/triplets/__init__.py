"""Triplets for Stage II: made from attributes or captions, or read from published formats."""

from train.triplets.formats import read_training_triplets
from train.triplets.from_attributes import synthesise, write_triplets
from train.triplets.from_captions import mine_captions
from train.triplets.image_names import resolve_image_names
from train.triplets.near_duplicates import NEAR_DUPLICATE, without_near_duplicates
from train.triplets.open_requests import REQUEST_KINDS, synthesise_requests
from train.triplets.report import TripletReport, triplet_sheet
from train.triplets.stage_two import StageTwoData, collection_triplets, stage_two_data

__all__ = [
    "NEAR_DUPLICATE",
    "REQUEST_KINDS",
    "StageTwoData",
    "TripletReport",
    "collection_triplets",
    "mine_captions",
    "read_training_triplets",
    "resolve_image_names",
    "stage_two_data",
    "synthesise",
    "synthesise_requests",
    "triplet_sheet",
    "without_near_duplicates",
    "write_triplets",
]
