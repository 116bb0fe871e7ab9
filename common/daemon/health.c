/* health: see health.h */
