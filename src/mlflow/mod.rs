//! mlflow
