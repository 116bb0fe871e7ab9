/* blob_id: see blob_id.h */
