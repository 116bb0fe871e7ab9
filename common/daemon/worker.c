/* worker: see worker.h */
